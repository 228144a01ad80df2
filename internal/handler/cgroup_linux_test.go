package handler

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orchestrate/internal/queue"
)

// contained is a containment by cgroups, with nothing in it at the end. Where
// the kernel refuses one it is nil, and the reason is checked instead: then the
// test has nothing more to look at.
func contained(t *testing.T) *Containment {
	t.Helper()
	c := DetectContainment()
	if c.String() == "process group" {
		if c.Why() == "" {
			t.Error("no cgroup can be made, and nothing says why")
		}
		t.Logf("no cgroup: %s", c.Why())
		return nil
	}
	if c.Why() != "" {
		t.Errorf("there are cgroups, but Why = %q", c.Why())
	}
	// One of the test's own, so that what is left in it can be told from others'.
	dir, err := os.MkdirTemp(c.parent, "handler-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := cgroupsIn(t, dir); len(left) > 0 {
			t.Errorf("left cgroups: %q, want none", left)
		}
		if err := cgroup(dir).remove(queue.Clock().Add(cgroupDelay)); err != nil {
			t.Error(err)
		}
	})
	return &Containment{parent: dir}
}

func cgroupsIn(t *testing.T, dir string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(dir, cgroupPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func TestContainment(t *testing.T) {
	tests := []struct {
		name      string
		c         *Containment
		what, why string
	}{
		{"none", nil, "process group", "not asked for"},
		{"refused", &Containment{why: "mkdir: read-only file system"}, "process group", "mkdir: read-only file system"},
		{"cgroup", &Containment{parent: "/sys/fs/cgroup/x"}, "cgroup", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.c.String() != tt.what || tt.c.Why() != tt.why {
				t.Errorf("containment = %q, why %q; want %q, %q", tt.c, tt.c.Why(), tt.what, tt.why)
			}
		})
	}
	t.Run("detection leaves nothing", func(t *testing.T) {
		if c := contained(t); c != nil { // it looks at the end
			if err := tryCgroup(c.parent); err != nil {
				t.Errorf("tryCgroup = %v, want nil", err)
			}
		}
	})
	t.Run("the kernel refuses", func(t *testing.T) {
		c := contained(t)
		if c == nil {
			return
		}
		dir, err := os.MkdirTemp(c.parent, "threaded-")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.type"), []byte("threaded"), 0); err != nil {
			t.Fatal(err)
		}
		want := "start a process in " + dir + ": operation not supported"
		if err := tryCgroup(dir); message(err) != want {
			t.Errorf("tryCgroup = %v, want %s", err, want)
		}
		if err := unix.Rmdir(dir); err != nil {
			t.Error(err)
		}
	})
	t.Run("a directory that is no cgroup", func(t *testing.T) {
		if err := tryCgroup(t.TempDir()); err == nil {
			t.Error("tryCgroup = nil, want an error")
		}
	})
}

func TestOwnCgroup(t *testing.T) {
	const (
		v2     = "25 30 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid = "31 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n40 30 0:37 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
		part   = "25 30 0:22 /docker/ab /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
		blank  = `25 30 0:22 / /mnt/a\040b rw - cgroup2 cgroup rw` + "\n"
	)
	tests := []struct{ name, membership, mounts, want, err string }{
		{"unified", "0::/system.slice/o.service\n", v2, "/sys/fs/cgroup/system.slice/o.service", ""},
		{"hybrid", "9:name=systemd:/\n1:cpu:/x\n0::/\n", hybrid, "/sys/fs/cgroup/unified", ""},
		{"a part is mounted", "0::/docker/ab/c\n", part, "/sys/fs/cgroup/c", ""},
		{"all of the part", "0::/docker/ab\n", part, "/sys/fs/cgroup", ""},
		{"another part is mounted", "0::/docker/abc\n", part, "", "no file system of type cgroup2 with /docker/abc is mounted"},
		{"a blank", "0::/\n", blank, "/mnt/a b", ""},
		{"only version 1", "1:cpu:/x\n", hybrid, "", `own cgroup: ""`},
		{"outside of the namespace", "0::/../x\n", v2, "", `own cgroup: "/../x"`},
		{"not mounted", "0::/\n", "31 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "", "no file system of type cgroup2"},
		{"nothing", "", "", "", "own cgroup"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			membership, mounts := filepath.Join(dir, "cgroup"), filepath.Join(dir, "mountinfo")
			if err := errors.Join(os.WriteFile(membership, []byte(tt.membership), 0o600), os.WriteFile(mounts, []byte(tt.mounts), 0o600)); err != nil {
				t.Fatal(err)
			}
			got, err := ownCgroup(membership, mounts)
			if got != tt.want || (tt.err == "") != (err == nil) || !strings.Contains(message(err), tt.err) {
				t.Errorf("ownCgroup = %q, %v; want %q, %s", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzCgroupMount(f *testing.F) {
	f.Add("40 30 0:37 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw")
	f.Add("- cgroup2 ")
	f.Add(`1 2 3 /a\040b /c\134d - cgroup2 x`)
	f.Fuzz(func(t *testing.T, line string) {
		if root, dir, ok := cgroupMount(line); ok && (root == "" || dir == "") {
			t.Errorf("cgroupMount(%q) = %q, %q", line, root, dir)
		}
	})
}

// TestEscapedProcessEnds: a process that has left the process group, and its
// environment, ends with the attempt.
func TestEscapedProcessEnds(t *testing.T) {
	const escape = `env -i setsid sh -c 'echo $$ > $1; exec sleep 1000' sh $1`
	tests := []struct {
		name, script string
		cause        error
		kind         string
	}{
		{"when the command ends", escape + ` & cat $2`, nil, "done"},
		{"when it times out", escape + ` & sleep 1000`, nil, "retry"},
		{"when the lease is lost", escape + ` & sleep 1000`, queue.ErrLeaseLost, "retry"},
		{"without our output", escape + ` > /dev/null 2>&1 & cat $2`, nil, "done"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := contained(t)
			if c == nil {
				return
			}
			path, pid := fifo(t)
			second, _ := fifo(t)
			h, work := newRun(t, Run{Command: shell(tt.script, path, second), Timeout: 2 * time.Second, Grace: time.Second, Containment: c})
			ctx, cancel := context.WithCancelCause(t.Context())
			escaped := make(chan string, 1)
			go func() {
				escaped <- pid()
				if tt.cause != nil {
					cancel(tt.cause)
				} else if strings.Contains(tt.script, "$2") {
					if err := os.WriteFile(second, nil, 0); err != nil {
						t.Error(err)
					}
				}
			}()
			if _, err := h.Handle(ctx, task(`{}`)); kindOf(err) != tt.kind {
				t.Errorf("Handle error = %v, want %s", err, tt.kind)
			}
			checkDead(t, <-escaped)
			checkEmpty(t, work)
		})
	}
}

func TestForgottenCgroups(t *testing.T) {
	c := contained(t)
	if c == nil {
		return
	}
	long := queue.Clock().Add(-2 * time.Hour)
	for name, age := range map[string]time.Time{
		cgroupPrefix + attemptPrefix + "1-1": long, cgroupPrefix + attemptPrefix + "2-2": queue.Clock(), "other": long,
	} {
		dir := filepath.Join(c.parent, name)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chtimes(dir, age, age)); err != nil {
			t.Fatal(err)
		}
	}
	removeForgotten(c.parent)
	for name, want := range map[string]error{
		cgroupPrefix + attemptPrefix + "1-1": unix.ENOENT, cgroupPrefix + attemptPrefix + "2-2": nil, "other": nil,
	} {
		if err := unix.Rmdir(filepath.Join(c.parent, name)); !errors.Is(err, want) {
			t.Errorf("remove %s = %v, want %v: an hour old, empty and an attempt's, or left alone", name, err, want)
		}
	}
}

func TestCommandIsInItsCgroup(t *testing.T) {
	c := contained(t)
	if c == nil {
		return
	}
	h, _ := newRun(t, Run{Command: shell(`grep ^0:: /proc/self/cgroup; readlink "${ORCHESTRATE_PAYLOAD_FILE%/*}/cgroup"`), Containment: c})
	res, err := h.Handle(t.Context(), task(`{}`))
	own, link, _ := strings.Cut(strings.TrimSpace(string(res.Output)), "\n")
	if err != nil || filepath.Dir(link) != c.parent || !strings.HasSuffix(own, "/"+filepath.Base(c.parent)+"/"+filepath.Base(link)) {
		t.Errorf("the command is in %s, its directory links to %s, %v; want both below %s", own, link, err, c.parent)
	}
}

// TestCgroupsBelow: a command may have made cgroups of its own.
func TestCgroupsBelow(t *testing.T) {
	c := contained(t)
	if c == nil {
		return
	}
	path, pid := fifo(t)
	const script = `d=$(readlink "${ORCHESTRATE_PAYLOAD_FILE%/*}/cgroup"); mkdir -p $d/a/b
		setsid sh -c 'echo $$ > $2/a/b/cgroup.procs; echo $$ > $1; exec sleep 1000' sh $1 $d & sleep 1000`
	h, work := newRun(t, Run{Command: shell(script, path), Containment: c})
	ctx, cancel := context.WithCancelCause(t.Context())
	child := make(chan string, 1)
	go func() {
		child <- pid()
		cancel(queue.ErrLeaseLost)
	}()
	if _, err := h.Handle(ctx, task(`{}`)); !errors.Is(err, queue.ErrLeaseLost) {
		t.Errorf("Handle error = %v, want %v", err, queue.ErrLeaseLost)
	}
	checkDead(t, <-child)
	checkEmpty(t, work)
}

func TestKillReachesTheCgroup(t *testing.T) {
	tests := []struct {
		name string
		kill func(*process)
	}{
		{"all at once", func(p *process) { p.cgroup.kill() }},
		{"each, as before Linux 5.14", func(p *process) { p.cgroup.killEach() }},
		{"by a second signal", func(p *process) {
			var running Running
			running.add(p)
			running.Kill()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := contained(t)
			if c == nil {
				return
			}
			dir, err := os.MkdirTemp(c.parent, cgroupPrefix)
			if err != nil {
				t.Fatal(err)
			}
			path, pid := fifo(t)
			const script = `setsid sh -c 'echo $$ > $1; exec sleep 1000' sh $1 & sleep 1000`
			p, err := start(exec.CommandContext(t.Context(), "/bin/sh", "-c", script, "sh", path), cgroup(dir))
			if err != nil {
				t.Fatal(err)
			}
			escaped := pid()
			if got := p.cgroup.processes(); !slices.ContainsFunc(got, func(n int) bool { return strconv.Itoa(n) == escaped }) {
				t.Errorf("processes in the cgroup = %d, want %s among them", got, escaped)
			}
			tt.kill(p)
			checkDead(t, escaped)
			if err := p.watch(t.Context(), time.Hour, time.Hour); err != nil {
				t.Errorf("watch = %v, want nil: it was killed", err)
			}
			if err := p.cgroup.remove(queue.Clock().Add(cgroupDelay)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUncontained: an attempt whose cgroup can't be made runs all the same.
func TestUncontained(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	tests := []struct {
		name   string
		parent func(*testing.T) string
	}{
		{"it can't be made", func(*testing.T) string { return gone }},
		{"it is no cgroup", func(t *testing.T) string { return t.TempDir() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			work := filepath.Join(t.TempDir(), "work")
			r := Run{Command: []string{"/bin/echo", "ran"}, Containment: &Containment{parent: tt.parent(t)}}
			h, err := NewRun(r, work, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				res, err := h.Handle(t.Context(), task(`{}`))
				if err != nil || string(res.Output) != "ran\n" {
					t.Errorf("output = %q, %v; want ran", res.Output, err)
				}
			}
			if n := strings.Count(log.String(), "no cgroup for an attempt"); n != 1 {
				t.Errorf("%d lines about it, want 1:\n%s", n, &log)
			}
			checkEmpty(t, work)
		})
	}
}

func TestManyCgroupsAtOnce(t *testing.T) {
	c := contained(t)
	if c == nil {
		return
	}
	h, work := newRun(t, Run{Command: shell(`setsid sleep 1000 & cat > /dev/null; echo $1`, "{{ .n }}"), Containment: c})
	ctx, cancel := context.WithCancel(t.Context())
	var sweeper, attempts sync.WaitGroup
	sweeper.Go(func() {
		for ctx.Err() == nil {
			if err := Sweep(work); err != nil {
				t.Errorf("Sweep: %v", err)
			}
		}
	})
	for i := range 32 {
		attempts.Go(func() {
			res, err := h.Handle(t.Context(), task(`{"n":`+strconv.Itoa(i)+`}`))
			if got, want := string(res.Output), strconv.Itoa(i)+"\n"; err != nil || got != want {
				t.Errorf("output = %q, %v; want %q", got, err, want)
			}
		})
	}
	attempts.Wait()
	cancel()
	sweeper.Wait()
	checkEmpty(t, work)
}

// TestSweepEndsCgroups: a dead worker's escaped processes are found by the
// cgroup, where their environment does not tell.
func TestSweepEndsCgroups(t *testing.T) {
	if contained(t) == nil {
		return
	}
	t.Setenv(varContained, "1")
	work := filepath.Join(t.TempDir(), "work")
	escaped := killWorker(t, work, `env -i setsid sh -c 'echo $$ > $1; exec sleep 1000' sh $1 & wait`)
	attempts := names(t, work)
	if len(attempts) != 1 {
		t.Fatalf("directories of attempts = %q, want 1", attempts)
	}
	dir, err := os.Readlink(filepath.Join(work, attempts[0], "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Sweep(work); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	checkDead(t, escaped)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cgroup %s: %v; want it gone", dir, err)
	}
	checkEmpty(t, work)
}

// TestSweepKillsNothingElse: a link in an attempt's directory may say what it
// will, only a cgroup of that attempt's is touched.
func TestSweepKillsNothingElse(t *testing.T) {
	c := contained(t)
	if c == nil {
		return
	}
	other, err := os.MkdirTemp(c.parent, "other-")
	if err != nil {
		t.Fatal(err)
	}
	name := cgroupPrefix + attemptPrefix + "1-2"
	detour := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(other, detour); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(plain, 0o700); err != nil {
		t.Fatal(err)
	}
	another := filepath.Join(c.parent, cgroupPrefix+attemptPrefix+"12-3")
	if err := os.Mkdir(another, 0o700); err != nil {
		t.Fatal(err)
	}
	for label, link := range map[string]string{
		"another's": another, "no attempt's": other, "the parent": c.parent, "a detour": detour, "dots": other + "/../" + filepath.Base(another),
		"no cgroup": plain, "relative": name, "gone": filepath.Join(c.parent, name), "empty": " ",
	} {
		t.Run(label, func(t *testing.T) {
			work := t.TempDir()
			d := attemptDir{path: filepath.Join(work, attemptPrefix+"1")}
			if err := errors.Join(os.Mkdir(d.path, 0o700), os.Symlink(link, d.link())); err != nil {
				t.Fatal(err)
			}
			if g := linkedCgroup(&d); g != "" {
				t.Errorf("linkedCgroup = %s, want none", g)
			}
			if err := Sweep(work); err != nil {
				t.Errorf("Sweep: %v", err)
			}
			checkEmpty(t, work)
		})
	}
	for _, dir := range []string{other, another, plain} {
		if err := unix.Rmdir(dir); err != nil {
			t.Errorf("%s: %v; want it to be there still", dir, err)
		}
	}
}
