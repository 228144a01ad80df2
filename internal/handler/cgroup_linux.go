package handler

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orchestrate/internal/queue"
)

// DetectContainment finds out whether attempts can have cgroups of their own,
// below that of this process, by making one and starting a process in it.
func DetectContainment() *Containment {
	parent, err := ownCgroup("/proc/self/cgroup", "/proc/self/mountinfo")
	if err == nil {
		err = tryCgroup(parent)
	}
	if err != nil {
		return &Containment{why: err.Error()}
	}
	removeForgotten(parent)
	return &Containment{parent: parent}
}

// removeForgotten removes the cgroups of attempts whose directories are gone, so
// that no Sweep finds them. They are empty; one that is about to be used is new,
// and one that is in use is refused by the kernel.
func removeForgotten(parent string) {
	const old = time.Hour
	entries, _ := os.ReadDir(parent) // what can't be read stays
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), cgroupPrefix+attemptPrefix) {
			continue
		}
		if st, err := e.Info(); err == nil && queue.Clock().Sub(st.ModTime()) > old {
			_ = unix.Rmdir(filepath.Join(parent, e.Name()))
		}
	}
}

// ownCgroup is the directory of this process' cgroup (version 2). Version 1 has
// hierarchies beside it, whose cgroups can't be killed at once.
func ownCgroup(membership, mounts string) (string, error) {
	b, err := os.ReadFile(membership) //nolint:gosec // of the kernel's
	if err != nil {
		return "", fmt.Errorf("own cgroup: %w", err)
	}
	own := ""
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			own = strings.TrimSuffix(path, "\n")
		}
	}
	if !strings.HasPrefix(own, "/") || strings.HasPrefix(own, "/..") {
		return "", fmt.Errorf("own cgroup: %q in %s is of no use; want one of version 2", own, membership)
	}
	f, err := os.Open(mounts) //nolint:gosec // of the kernel's
	if err != nil {
		return "", fmt.Errorf("mounts: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if root, dir, ok := cgroupMount(lines.Text()); ok {
			if below, ok := strings.CutPrefix(own+"/", strings.TrimSuffix(root, "/")+"/"); ok {
				return filepath.Join(dir, below), nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("mounts: %w", err)
	}
	return "", fmt.Errorf("no file system of type cgroup2 with %s is mounted", own)
}

// cgroupMount reads a line of mountinfo (man 5 proc_pid_mountinfo): what of the
// hierarchy is mounted, and where.
func cgroupMount(line string) (root, dir string, ok bool) {
	mount, source, ok := strings.Cut(line, " - ")
	fields := strings.Fields(mount)
	if !ok || len(fields) < 5 || !strings.HasPrefix(source, "cgroup2 ") {
		return "", "", false
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	return unescape.Replace(fields[3]), unescape.Replace(fields[4]), true
}

// tryCgroup starts a program that does not exist: exec fails only in a process
// that has been made in the cgroup by then.
func tryCgroup(parent string) error {
	dir, err := os.MkdirTemp(parent, cgroupPrefix+"try-")
	if err != nil {
		return err
	}
	g := cgroup(dir)
	cmd := exec.Command(filepath.Join(dir, "none")) //nolint:gosec,noctx // it never runs
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if err = g.start(cmd); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("start a process in %s: %w", parent, bare(err))
	}
	return errors.Join(err, g.remove(queue.Clock().Add(cgroupDelay)))
}

// bare leaves out which program was to be started.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// contain makes the cgroup of an attempt. A link in its directory tells Sweep
// where it is, before there is anything in it.
func (c *Containment) contain(d *attemptDir) error {
	if c == nil || c.parent == "" {
		return nil
	}
	dir, err := os.MkdirTemp(c.parent, cgroupPrefix+filepath.Base(d.path)+"-")
	if err != nil {
		return err
	}
	if err := os.Symlink(dir, d.link()); err != nil {
		return errors.Join(err, unix.Rmdir(dir))
	}
	d.cgroup = cgroup(dir)
	return nil
}

// linkedCgroup is the cgroup that a dead attempt's directory names, if it is
// one of that attempt's: no other may be killed, whatever the link says.
func linkedCgroup(d *attemptDir) cgroup {
	dir, err := os.Readlink(d.link())
	if err != nil || !strings.HasPrefix(filepath.Base(dir), cgroupPrefix+filepath.Base(d.path)+"-") {
		return ""
	}
	if real, err := filepath.EvalSymlinks(dir); err != nil || real != dir || !filepath.IsAbs(dir) {
		return "" // gone, or a detour
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return ""
	}
	return cgroup(dir)
}

// start starts a command whose SysProcAttr is set, in the cgroup from its first
// instruction on.
func (g cgroup) start(cmd *exec.Cmd) error {
	if g == "" {
		return cmd.Start()
	}
	dir, err := os.Open(string(g))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only handed to clone3
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return cmd.Start()
}

// kill kills all that is in the cgroup and in those below it; what it can't
// kill, remove tells.
func (g cgroup) kill() {
	if g == "" {
		return
	}
	fd, err := unix.Open(filepath.Join(string(g), "cgroup.kill"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.killEach() // Linux has it since 5.14
		return
	}
	_, _ = unix.Write(fd, []byte("1"))
	_ = unix.Close(fd) // it keeps nothing back
}

// killEach kills by number. A process is held by a descriptor before it is found
// in the cgroup once more, so that its number can't be a stranger's. One that
// forks meanwhile is found by the next call.
func (g cgroup) killEach() {
	held := map[int]*os.Process{}
	for _, pid := range g.processes() {
		if p, err := os.FindProcess(pid); err == nil {
			held[pid] = p
		}
	}
	for _, pid := range g.processes() {
		if p := held[pid]; p != nil {
			_ = p.Kill() // an error: it has exited
		}
	}
	for _, p := range held {
		_ = p.Release()
	}
}

func (g cgroup) processes() []int {
	var pids []int
	_ = filepath.WalkDir(string(g), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // gone meanwhile
		}
		b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs")) //nolint:gosec // of the kernel's; none: gone meanwhile
		for field := range bytes.FieldsSeq(b) {
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// remove kills what is in the cgroup, waits until that has ended, and removes
// it. What is left at the deadline is told by the error.
func (g cgroup) remove(deadline time.Time) error {
	if g == "" {
		return nil
	}
	events, err := unix.Open(filepath.Join(string(g), "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // a service manager may have removed it with ours
	}
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", g, err)
	}
	defer func() { _ = unix.Close(events) }() // only read
	for tried := false; populated(events); tried = true {
		left := deadline.Sub(queue.Clock())
		if left <= 0 && tried {
			return fmt.Errorf("cgroup %s: processes %d are killed, but have not ended", g, g.processes())
		}
		g.kill()
		// The kernel tells a change by POLLPRI; what it says is read anew.
		wait := min(max(left.Milliseconds(), 10), 100)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(events), Events: unix.POLLPRI}}, int(wait)) //nolint:gosec // a descriptor is small
	}
	return removeCgroups(string(g))
}

// populated tells whether a process is in the cgroup or below. Zombies are not
// counted.
func populated(events int) bool {
	b := make([]byte, 256)
	n, err := unix.Pread(events, b, 0)
	return err == nil && bytes.Contains(b[:n], []byte("populated 1")) // an error: the cgroup is gone
}

// removeCgroups removes a cgroup, and before it those that the command made
// below.
func removeCgroups(dir string) error {
	err := unix.Rmdir(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil || !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		return wrapCgroup(dir, err)
	}
	entries, _ := os.ReadDir(dir) // what can't be read can't be removed, which is told
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroups(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return wrapCgroup(dir, unix.Rmdir(dir))
}

func wrapCgroup(dir string, err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}
