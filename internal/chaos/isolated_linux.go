package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// setUp makes of new namespaces what programs expect of a machine: /proc is that
// of the processes here, /run is for whoever keeps names there, and $0 is for
// files that go with the namespace.
const setUp = `set -e
mount -t proc proc /proc
mount -t tmpfs run /run
mount -t tmpfs tmp "$0"
chmod 1777 "$0"
`

// Isolated runs a script of sh, with its arguments, in new namespaces of
// processes, mounts and whatever else unshare asks for (syscall.CLONE_NEWNET).
// The shell is their first process, with which all others end, and the kernel
// takes their mounts away with the last of them: a program that deletes what it
// has made leaves it when it is killed. dir, which must exist, is an empty
// filesystem in there. It needs root; the caller must have locked its thread,
// with which the shell would end.
func Isolated(ctx context.Context, unshare uintptr, dir, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", setUp + script, dir}, args...)...) //nolint:gosec // our own scripts
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS | unshare, // and mounts stay within
		Pdeathsig:    syscall.SIGKILL,
		Setpgid:      true,
	}
	// The shell, a first process, is not killed by it, but what it runs, which then
	// unmounts what it has mounted: killed while it waits for a filesystem that it
	// serves itself, it would never end.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// RunIsolated runs a command in a filesystem of its own, to which TMPDIR points,
// and returns its exit code as an error that Main understands. With CLONE_NEWNET
// setUp may make a network for it.
func RunIsolated(ctx context.Context, unshare uintptr, scratch, setUp string, stdout, stderr io.Writer, command ...string) error {
	cmd := Isolated(ctx, unshare, scratch, setUp+"\nexport TMPDIR=\"$0\"\n\"$@\"\nexit\n", command...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return errExit(exit.ExitCode())
	}
	return err
}

// Again builds what a fault test needs in a new directory, and runs it again, with
// -within and that directory as further arguments, where its mounts stay its own.
func Again(ctx context.Context, args []string, stdout, stderr io.Writer, build func(dir string) error) (err error) {
	runtime.LockOSThread() // with it what we start would end
	dir, err := os.MkdirTemp("", "orchestrate-chaos-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	scratch := filepath.Join(dir, "tmp")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	if out, err := Isolated(ctx, 0, scratch, "").CombinedOutput(); err != nil {
		return NotRun{fmt.Sprintf("nothing can be mounted here: %s %s", err, strings.Join(strings.Fields(string(out)), " "))}
	}
	if err := build(dir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	command := append([]string{self}, args...)
	return RunIsolated(ctx, 0, scratch, "", stdout, stderr, append(command, "-within", dir)...)
}
