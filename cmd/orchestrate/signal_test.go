//go:build unix

package main

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const slowRoutes = `
drain_timeout: 10m
routes:
  - name: slow
    on: [push]
    run: {command: [sh, -c, "touch %DIR%/started; until test -e %DIR%/finish; do sleep 0.1; done"]}
`

// slow starts serve with a command that runs until it is told to finish, and
// sends the first signal.
func slow(t *testing.T) (*program, *daemon) {
	t.Helper()
	p := newProgram(t, slowRoutes)
	d := p.serve()
	p.run("events", "send", "push")
	p.eventually("the command runs", func() bool { return strings.Contains(string(p.run("events", "list")), " processing ") })
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.eventually("the drain has begun", func() bool {
		res, err := http.Get("http://" + p.admin + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusServiceUnavailable
	})
	return p, d
}

func TestFirstSignalDrains(t *testing.T) {
	p, d := slow(t)
	p.run("events", "send", "issues") // webhooks are received as long as something runs
	writeFile(t, p.path("finish"))
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("serve that drained ended with %v, want 0", err)
	}
	if list := string(p.run("events", "list")); strings.Count(list, " completed ") != 2 {
		t.Errorf("after the drain:\n%swant two completed events", list)
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	p, d := slow(t)
	if code := d.stop(syscall.SIGTERM); code != 143 {
		t.Errorf("exit code %d, want 143", code)
	}
	writeFile(t, p.path("finish")) // where the kernel does not end the command with serve
	p.start("process")
	p.eventually("another worker runs it again", func() bool {
		return strings.Contains(string(p.run("events", "list")), " completed ")
	})
}

func writeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSecondSignalLeavesNoChild, also none of those that a command started.
func TestSecondSignalLeavesNoChild(t *testing.T) {
	p := newProgram(t, `
routes:
  - name: family
    on: [push]
    run: {command: [sh, -c, 'sleep 3600 & echo $! >%DIR%/child; sleep 3600'], grace: 1h}
`)
	d := p.serve()
	p.run("events", "send", "push")
	var child int
	p.eventually("the command has a child", func() bool {
		b, err := os.ReadFile(p.path("child"))
		if err != nil {
			return false
		}
		child, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := d.stop(syscall.SIGINT); code != 130 && code != 143 {
		t.Errorf("exit code %d, want 130 or 143", code)
	}
	p.eventually("its child has gone", func() bool { return gone(child) })
}

// gone: a process that nobody has reaped yet has gone, too.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}
