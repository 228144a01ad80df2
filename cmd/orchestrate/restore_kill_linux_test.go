package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"orchestrate/internal/chaos"
)

// TestRestoreKilledAtCalls: killed right before any of its renames, or
// every ninth of its syncs, restore leaves the database that was there, with what a kill of serve
// had left in its log, or the new one and the other whole beside it; and backup
// leaves a whole file or none.
func TestRestoreKilledAtCalls(t *testing.T) {
	t.Parallel()
	dir, err := builtDir()
	if err != nil {
		t.Fatal(err)
	}
	killer := filepath.Join(dir, "crash")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", killer, "orchestrate/internal/chaos/crash").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	const before, after = 5, 9
	p := newProgram(t, manyConfig)
	d := p.serve("--no-process")
	send := func(from, to int) {
		for i := from; i < to; i++ {
			if code, _, err := p.post(delivery{id: fmt.Sprint("d", i), event: "push", body: []byte(`{"a":1}`)}); err != nil || code != 200 {
				t.Fatalf("delivery %d: %d, %v", i, code, err)
			}
		}
	}
	send(0, before)
	p.run("backup", p.path("b.db"))
	send(before, after)
	if err := errors.Join(d.cmd.Process.Signal(syscall.SIGKILL), ignoreExit(d.cmd.Wait())); err != nil {
		t.Fatal(err)
	}
	// at kills a command, and returns its database and whether it was killed.
	at := func(call string, k int, args ...string) (database string, killed bool) {
		database = filepath.Join(t.TempDir(), "q.db")
		for _, suffix := range []string{"", "-wal", "-shm"} {
			b, err := os.ReadFile(p.path("state/q.db") + suffix)
			if err := errors.Join(err, os.WriteFile(database+suffix, b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		whole := p.command(append(args, "--database", database)...)
		cmd := exec.Command(killer, chaos.KillAtArgs(call, k, whole.Args...)...)
		cmd.Env = whole.Env
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 0 && code != 137 {
			t.Fatalf("%v before %s %d: %v\n%s", args, call, k, err, out)
		}
		return database, err != nil
	}
	count := func(database string) int { return len(p.list("--database", database)) }
	for call, step := range map[string]int{"fsync": 9, "renameat": 1} {
		old, renewed := 0, 0
		for k, killed := 1, true; killed; k += step {
			var database string
			database, killed = at(call, k, "restore", "--yes", p.path("b.db"))
			n := count(database)
			kept, _ := filepath.Glob(database + ".before-*Z")
			switch {
			case n == after && len(kept) == 0 && killed:
				old++
			case n == before && len(kept) == 1 && count(kept[0]) == after:
				renewed++
			default:
				t.Errorf("before %s %d: %d events, and beside it %q; want %d and none, or %d and one with %d", call, k, n, kept, after, before, after)
			}
		}
		t.Logf("restore killed before each %s: the old database %d times, the new one %d times", call, old, renewed)
		if old == 0 || renewed < 2 {
			t.Errorf("%s: both must have been seen", call)
		}
		whole := 0
		for k, killed := 1, true; killed; k += step {
			file := filepath.Join(t.TempDir(), "b.db")
			_, killed = at(call, k, "backup", file)
			if _, err := os.Stat(file); err != nil && killed {
				continue
			}
			whole++
			p.run("restore", file, "--database", file+".again")
			if n := count(file + ".again"); n != after {
				t.Errorf("backup killed before %s %d: a file with %d events, want %d", call, k, n, after)
			}
		}
		t.Logf("backup killed before each %s: a whole file %d times", call, whole)
	}
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}
