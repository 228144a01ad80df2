package handler

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel KILL the leader when this process is killed: its
// job will be rescued and started again, and must not run twice at once. It
// does not reach the leader's children; Sweep does.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// awaitExit returns when the leader has exited, and leaves it a zombie: until it
// is reaped its number can't be given to another process, so that the group can
// still be signalled without hitting strangers.
func awaitExit(cmd *exec.Cmd) {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			_ = cmd.Wait() // what it returns stands in ProcessState
			return
		}
	}
}

// killLeftovers kills what a dead worker left running for an attempt, with
// children that left the group, too: whoever has the payload file in its
// environment. Numbers of processes could have been given away since. It looks
// again until there is none, since a process may fork while it looks.
func killLeftovers(payload string) {
	const rounds = 10
	for range rounds {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return // without it nobody can be found
		}
		found := false
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil && killIfMarked(pid, payload) {
				found = true
			}
		}
		if !found {
			return
		}
	}
}

// killIfMarked holds the process by a descriptor while it reads, so that it
// kills what it has read about.
func killIfMarked(pid int, payload string) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer func() { _ = p.Release() }()
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false // gone, or another user's
	}
	for v := range bytes.SplitSeq(environ, []byte{0}) {
		if string(v) == varPayloadFile+"="+payload {
			return p.Kill() == nil
		}
	}
	return false
}
