package handler

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orchestrate/internal/queue"
)

// checkDead fails unless the process is dead, or dies of a signal that it was
// already sent.
func checkDead(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatalf("process id %q: %v", pid, err)
	}
	fd, err := unix.PidfdOpen(n, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatalf("pidfd_open %d: %v", n, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !readable(t, fd, 10*time.Second) {
		_ = unix.Kill(n, unix.SIGKILL)
		t.Errorf("process %d is alive, want it dead", n)
	}
}

// readable waits for a descriptor; that of a process is readable when it is dead.
func readable(t *testing.T, fd int, limit time.Duration) bool {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("poll: %v", err)
		}
		return n > 0
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	testNothingIsLeftRunning(t, nil)
	t.Run("with cgroups", func(t *testing.T) { testNothingIsLeftRunning(t, contained(t)) })
}

func testNothingIsLeftRunning(t *testing.T, c *Containment) {
	tests := []struct{ name, script string }{
		{"background child", `sleep 1000 & echo $! > $1`},
		{"background child without our output", `sleep 1000 > /dev/null 2>&1 & echo $! > $1`},
		{"background child that ignores TERM", `( trap '' TERM HUP; echo > $2; sleep 1000 ) & cat $2; echo $! > $1`},
		{"grandchild of a failure", `( ( sleep 1000 & echo $! > $1 ) ); exit 1`},
		{"nohup", `nohup sleep 1000 > /dev/null 2>&1 & echo $! > $1`},
		{"timeout", `sleep 1000 & echo $! > $1; wait`},
		{"stopped child", `sleep 1000 & kill -STOP $!; echo $! > $1`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, pid := fifo(t)
			second, _ := fifo(t)
			h, _ := newRun(t, Run{Command: shell(tt.script, path, second), Timeout: 2 * time.Second, Grace: time.Second, Containment: c})
			told := make(chan string)
			go func() { told <- pid() }()
			if _, err := h.Handle(t.Context(), task(`{}`)); kindOf(err) != "done" && kindOf(err) != "retry" {
				t.Errorf("Handle error = %v", err)
			}
			checkDead(t, <-told)
		})
	}
}

// TestDaemonHoldsOutput: what left the group on purpose stays, but the attempt
// ends.
func TestDaemonHoldsOutput(t *testing.T) {
	path, pid := fifo(t)
	h, _ := newRun(t, Run{Command: shell(`setsid sh -c 'echo $$ > $1; exec sleep 1000' sh $1 & cat $2; echo done`, path, path+"2")})
	if err := unix.Mkfifo(path+"2", 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := make(chan int, 1)
	go func() {
		n, err := strconv.Atoi(pid())
		if err != nil {
			t.Errorf("process id: %v", err)
		}
		daemon <- n
		if err := os.WriteFile(path+"2", nil, 0); err != nil {
			t.Error(err)
		}
	}()
	res, err := h.Handle(t.Context(), task(`{}`))
	if err != nil || string(res.Output) != "done\n" {
		t.Errorf("output = %q, %v; want done", res.Output, err)
	}
	if err := unix.Kill(<-daemon, unix.SIGKILL); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
}

// killWorker runs a script in a worker of its own, and kills that when the
// script has written something to its first argument, which is returned.
func killWorker(t *testing.T, work, script string) string {
	t.Helper()
	path, told := fifo(t)
	args := append([]string{"--"}, shell(script, path)...)
	worker := exec.CommandContext(t.Context(), os.Args[0], args...)
	worker.Env = append(os.Environ(), varWorker+"="+work)
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	said := told()
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err == nil {
		t.Fatal("the worker ended by itself, want it killed")
	}
	return said
}

func TestLeaderDiesWithWorker(t *testing.T) {
	checkDead(t, killWorker(t, t.TempDir(), `trap '' TERM HUP; echo $$ > $1; exec sleep 1000 > /dev/null`))
}

func TestSweep(t *testing.T) {
	work := filepath.Join(t.TempDir(), "work")
	if err := Sweep(work); err != nil {
		t.Errorf("Sweep of nothing: %v", err)
	}
	child := killWorker(t, work, `sleep 1000 > /dev/null 2>&1 & echo $! > $1; wait`)
	escaped := killWorker(t, work, `setsid sh -c 'echo $$ > $1; exec sleep 1000' sh $1`)
	live, err := newAttemptDir(work, []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(work, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if n := len(names(t, work)); n != 4 {
		t.Fatalf("%d directories before the sweep, want 4: two of dead workers, a live one, another's", n)
	}
	if err := Sweep(work); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	checkDead(t, child)
	checkDead(t, escaped)
	got := names(t, work)
	if want := filepath.Base(live.path); len(got) != 2 || got[0] != want || got[1] != "other" {
		t.Errorf("after the sweep there are %q, want %q and other", got, want)
	}
	if _, err := os.Stat(live.payload()); err != nil {
		t.Errorf("payload of a live attempt: %v", err)
	}
	if err := live.remove(queue.Clock()); err != nil {
		t.Error(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
