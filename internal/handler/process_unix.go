//go:build unix

package handler

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const terminateSignal = unix.SIGTERM

// confine gives the command a session, and with it a process group, of its own:
// a signal reaches all of it, Ctrl-C none of it, and without a terminal a
// program that would ask for a password fails instead of waiting.
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	dieWithParent(cmd.SysProcAttr)
}

// signalGroup signals all of the group. An error says that nobody is left, or
// that what is left belongs to another user: neither can be helped.
func signalGroup(cmd *exec.Cmd, sig os.Signal) {
	if s, ok := sig.(syscall.Signal); ok {
		_ = unix.Kill(-cmd.Process.Pid, s)
	}
}

// inheritOwner gives a directory that root made to the owner of the one above,
// so that a command of root's does not lock out the daemon's user.
func inheritOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	above, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return err
	}
	st, ok := above.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Lchown(dir, int(st.Uid), int(st.Gid))
}

// lock takes a lock on a directory, which the kernel frees when its holder dies.
func lock(dir string, how lockMode) (io.Closer, error) {
	f, err := os.Open(dir) //nolint:gosec // a directory of ours
	if err != nil {
		return nil, err
	}
	flags := [...]int{lockShared: unix.LOCK_SH, lockAlone: unix.LOCK_EX, lockTry: unix.LOCK_EX | unix.LOCK_NB}[how]
	for {
		err := unix.Flock(int(f.Fd()), flags)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EINTR) {
			_ = f.Close() // nothing was written
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
}

func mayEnter(dir string) error { return unix.Access(dir, unix.X_OK) }
