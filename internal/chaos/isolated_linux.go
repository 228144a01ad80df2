package chaos

import (
	"context"
	"os/exec"
	"syscall"
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
	}
	return cmd
}
