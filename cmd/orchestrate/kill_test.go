//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
)

const killConfig = `
log: {level: warn}
processor: {concurrency: 4}
routes:
  - name: work
    on: [push]
    run: {command: ["true"]}
`

// ledger is the senders' own record of what was acknowledged.
type ledger struct {
	mu    sync.Mutex
	acked map[string]int64 // delivery id to event id
}

func (l *ledger) note(t *testing.T, id string, event int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, known := l.acked[id]; known && before != event {
		t.Errorf("%s was acknowledged as event %d and as event %d", id, before, event)
	}
	l.acked[id] = event
}

// TestKillLosesNothing kills the server again and again under load. What was
// acknowledged is there, once, and completes afterwards.
func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		killLosesNothing(t, "", 30)
	})
	t.Run("postgres", func(t *testing.T) { // fewer: it is the server that keeps what is stored
		t.Parallel()
		killLosesNothing(t, pgtest.Private(t, pgtest.Durable).Database(t), 12)
	})
}

func killLosesNothing(t *testing.T, database string, cycles int) {
	t.Helper()
	const senders = 8
	p := newProgramOn(t, database, killConfig)
	l := &ledger{acked: map[string]int64{}}
	dice := rand.New(rand.NewPCG(1, 2))
	for cycle := range cycles {
		d := p.serve()
		stop := make(chan struct{})
		var accepted atomic.Int64
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() { sendUntil(t, p, l, fmt.Sprintf("c%d-s%d", cycle, s), stop, &accepted) })
		}
		enough := 10 + dice.Int64N(200)
		p.eventually("deliveries are acknowledged", func() bool { return accepted.Load() >= enough })
		d.kill() // while the senders go on
		close(stop)
		wg.Wait()
	}
	t.Logf("%d cycles, %d acknowledged", cycles, len(l.acked))
	d := p.serve("--concurrency", "16")
	p.eventually("every event has completed", p.settled)
	found := map[string]int64{}
	for _, e := range p.list() {
		if before, twice := found[e.DeliveryID]; twice {
			t.Errorf("%s is stored twice, as %d and %d", e.DeliveryID, before, e.ID)
		}
		found[e.DeliveryID] = e.ID
		if e.Status != queue.StatusCompleted {
			t.Errorf("event %d (%s) is %s: %s", e.ID, e.DeliveryID, e.Status, e.ErrorMessage)
		}
	}
	for id, event := range l.acked {
		if found[id] != event {
			t.Errorf("%s was acknowledged as event %d, found is %d", id, event, found[id])
		}
	}
	if code := d.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("serve ended with %d\n%s", code, p.errors())
	}
}

// sendUntil posts one delivery after the other; one whose answer was lost is
// sent again, as GitHub would redeliver it.
func sendUntil(t *testing.T, p *program, l *ledger, prefix string, stop <-chan struct{}, accepted *atomic.Int64) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		d := delivery{id: fmt.Sprintf("%s-%d", prefix, n), event: "push", body: fmt.Appendf(nil, `{"n":"%s-%d","pad":"%4000d"}`, prefix, n, n)}
		status, r, err := p.post(d)
		switch {
		case err != nil: // killed: it may be there or not
			return
		case status != http.StatusOK:
			t.Errorf("%s: got %d", d.id, status)
			return
		}
		l.note(t, d.id, r.EventID)
		accepted.Add(1)
		if n%10 == 0 { // a redelivery at once
			if status, r, err := p.post(d); err == nil && status == http.StatusOK {
				if !r.Duplicate {
					t.Errorf("%s: the redelivery was no duplicate", d.id)
				}
				l.note(t, d.id, r.EventID)
			}
		}
	}
}

// TestManyProcessesOneFile runs everything at once on one database; nobody is
// told that it is locked.
func TestManyProcessesOneFile(t *testing.T) {
	p := newProgram(t, killConfig)
	daemons := []*daemon{p.serve(), p.start("process"), p.start("process")}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var sent, ran atomic.Int64
	for s := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				d := delivery{id: fmt.Sprintf("s%d-%d", s, n), event: "push", body: []byte(`{}`)}
				if status, _, err := p.post(d); err != nil || status != http.StatusOK {
					t.Errorf("%s: got %d, %v", d.id, status, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	for _, args := range [][]string{
		{"events", "list", "-o", "json"},
		{"status"},
		{"events", "requeue-dead", "--all", "--yes"},
		{"cleanup", "--older-than", "1ms"},
		{"process", "--once", "--limit", "5"},
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				out, err := p.command(args...).Output()
				if err != nil {
					t.Errorf("orchestrate %s: %v\n%s", strings.Join(args, " "), err, out)
					return
				}
				ran.Add(1)
			}
		})
	}
	<-time.After(8 * time.Second)
	close(stop)
	wg.Wait()
	p.eventually("everything has ended", p.settled)
	for _, d := range daemons {
		if code := d.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("%v ended with %d", d.cmd.Args, code)
		}
	}
	if sent.Load() == 0 || ran.Load() == 0 {
		t.Errorf("%d deliveries, %d commands: want some of both", sent.Load(), ran.Load())
	}
	t.Logf("%d deliveries beside %d commands", sent.Load(), ran.Load())
	for _, word := range []string{"locked", "SQLITE_BUSY", "busy"} {
		if said := p.stderr.String(); strings.Contains(said, word) {
			t.Errorf("somebody was told %q:\n%s", word, said)
		}
	}
	if left, err := exec.Command("pgrep", "-f", p.bin).Output(); err == nil {
		t.Errorf("processes are left: %s", left)
	}
}

// TestManyStartAtOnce on a database that is not there yet: one makes it, under a
// lock, and the others wait.
func TestManyStartAtOnce(t *testing.T) {
	p := newProgram(t, killConfig)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if out, err := p.command("process", "--once").Output(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if out := p.run("migrate", "status", "--exit-code"); !strings.Contains(string(out), "00001_events.sql") {
		t.Errorf("migrate status printed\n%s", out)
	}
}
