//go:build unix

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
)

// TestMoveSurvivesKills moves a queue that is in use, and kills the move again
// and again. What was acknowledged is on the other side, once, and completes
// there.
func TestMoveSurvivesKills(t *testing.T) {
	t.Parallel()
	file := func() string { return filepath.Join(t.TempDir(), "other.db") }
	server := pgtest.Private(t, pgtest.Durable)
	for name, sides := range map[string][2]string{
		"sqlite to postgres": {file(), server.Database(t)},
		"postgres to sqlite": {server.Database(t), file()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			moveSurvivesKills(t, sides[0], sides[1])
		})
	}
}

func moveSurvivesKills(t *testing.T, from, to string) {
	t.Helper()
	const events = 300
	old, next := newProgramOn(t, from, manyConfig), newProgramOn(t, to, manyConfig)
	d := old.serve()
	acked := map[string]int64{}
	send := func(p *program, prefix string, n int) {
		for i := range n {
			e := delivery{id: fmt.Sprint(prefix, i), event: "push", body: []byte("{}")}
			_, r, err := p.post(e)
			if err != nil {
				t.Fatal(err)
			}
			acked[e.id] = r.EventID
		}
	}
	send(old, "first", events)
	if code := exitOf(t, old.command("migrate", "copy", from, to)); code != 3 {
		t.Fatalf("while it is in use: exit code %d, want 3", code)
	}
	send(old, "second", events)
	d.stop(syscall.SIGTERM)

	dice, kills := rand.New(rand.NewPCG(3, 4)), 0
	for patience := 10 * time.Millisecond; ; patience += patience / 5 {
		cmd := old.command("migrate", "copy", from, to)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(patience+time.Duration(dice.IntN(50))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
		if err == nil {
			break
		}
		if kills++; cmd.ProcessState.ExitCode() != -1 {
			if code := exitOf(t, old.command("migrate", "copy", from, to)); code == 5 {
				break // killed after all was done
			}
			t.Fatalf("kill %d: exit code %d\n%s", kills, cmd.ProcessState.ExitCode(), old.errors())
		}
	}
	t.Logf("%d kills", kills)
	if code := exitOf(t, old.command("events", "list")); code != 6 {
		t.Errorf("the source can still be worked on: exit code %d, want 6", code)
	}
	next.serve()
	send(next, "third", 20)
	next.eventually("every event has completed", next.settled)
	found := map[string]int64{}
	for _, e := range next.list() {
		if _, twice := found[e.DeliveryID]; twice {
			t.Errorf("%s is there twice", e.DeliveryID)
		}
		if found[e.DeliveryID] = e.ID; e.Status != queue.StatusCompleted {
			t.Errorf("%s is %s", e.DeliveryID, e.Status)
		}
	}
	for id, event := range acked {
		if found[id] != event {
			t.Errorf("%s was acknowledged as event %d, and is %d", id, event, found[id])
		}
	}
	if len(found) != len(acked) {
		t.Errorf("%d events, %d were acknowledged", len(found), len(acked))
	}
}

func exitOf(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}
