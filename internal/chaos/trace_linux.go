package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the system calls that KillAt knows, by name.
var calls = map[string]uint64{
	"fsync": unix.SYS_FSYNC, "renameat": unix.SYS_RENAMEAT, "pwrite64": unix.SYS_PWRITE64, "ftruncate": unix.SYS_FTRUNCATE, "fcntl": unix.SYS_FCNTL,
}

// KillAtArgs are what a program must be started with that calls KillAt: the
// number of the call, its name, and the command.
func KillAtArgs(call string, k int, command ...string) []string {
	return append([]string{"killat", call, strconv.Itoa(k)}, command...)
}

// KillAt runs a command and kills it right before its k-th system call of a
// kind, whichever of its threads makes it (strace counts for each thread apart).
// Its children are left alone. It must run in a process that has no other
// children. It returns the exit code of a command that ended before; 137 after a
// kill.
func KillAt(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	runtime.LockOSThread() // who traces is a thread
	if len(args) < 3 {
		return 2
	}
	k, err := strconv.Atoi(args[1])
	nr, known := calls[args[0]]
	if err != nil || !known {
		return 2
	}
	code, err := killAt(ctx, nr, k, args[2:], stdout, stderr)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "trace: %v\n", err)
		return 2
	}
	return code
}

func killAt(ctx context.Context, nr uint64, k int, command []string, stdout, stderr io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // our own
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	leader := cmd.Process.Pid
	var ws unix.WaitStatus
	if _, err := unix.Wait4(leader, &ws, unix.WALL, nil); err != nil {
		return 0, err
	}
	const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	if err := errors.Join(unix.PtraceSetOptions(leader, options), unix.PtraceSyscall(leader, 0)); err != nil {
		return 0, err
	}
	for met := 0; ; {
		pid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case pid == leader && ws.Exited():
			return ws.ExitStatus(), nil
		case pid == leader && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case !ws.Stopped():
			continue // the end of a thread
		}
		signal := 0
		switch ws.StopSignal() {
		case unix.SIGTRAP | 0x80:
			if enters(pid, nr) {
				if met++; met == k {
					if err := unix.Kill(leader, unix.SIGKILL); err != nil {
						return 0, err
					}
				}
			}
		case unix.SIGTRAP, unix.SIGSTOP: // a thread begins
		default:
			signal = int(ws.StopSignal())
		}
		if err := unix.PtraceSyscall(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, err
		}
	}
}

// enters tells whether a thread is stopped at the entry of a system call. The
// kernel writes a ptrace_syscall_info: op in the first byte, the number of the
// call after 24 bytes.
func enters(pid int, nr uint64) bool {
	const entry = 1 // PTRACE_SYSCALL_INFO_ENTRY
	var info [96]byte
	at := uintptr(unsafe.Pointer(&info)) //nolint:gosec // there is no other way to hand it to the kernel
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(pid), unsafe.Sizeof(info), at, 0, 0)
	return errno == 0 && info[0] == entry && binary.NativeEndian.Uint64(info[24:]) == nr
}
