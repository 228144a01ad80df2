package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
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
// name of the call, its number, and the command.
func KillAtArgs(call string, k int, command ...string) []string {
	return append([]string{"killat", call, strconv.Itoa(k)}, command...)
}

// KillAt runs a command and kills it right before its k-th system call of a
// kind, whichever of its threads makes it (strace counts for each thread apart);
// before none, if k is 0. Its children are left alone. It must run in a process
// that has no other children, and that ends the command when it is sent SIGTERM.
// It returns the exit code of a command that ended before, 0 if it was told to;
// 137 after a kill. How many calls it met is the last line that it prints.
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
	met, code, err := killAt(ctx, nr, k, args[2:], stdout, stderr)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "trace: %v\n", err)
		return 2
	}
	_, _ = fmt.Fprintf(stdout, "\n%d\n", met)
	return code
}

func killAt(ctx context.Context, nr uint64, k int, command []string, stdout, stderr io.Writer) (met, code int, err error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // our own
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	leader := cmd.Process.Pid
	enough, stop := signal.NotifyContext(ctx, unix.SIGTERM)
	defer stop()
	defer context.AfterFunc(enough, func() { _ = unix.Kill(leader, unix.SIGKILL) })() // an error: it has ended
	var ws unix.WaitStatus
	if _, err := unix.Wait4(leader, &ws, unix.WALL, nil); err != nil {
		return 0, 0, err
	}
	const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	if err := errors.Join(unix.PtraceSetOptions(leader, options), unix.PtraceSyscall(leader, 0)); err != nil {
		return 0, 0, err
	}
	for {
		pid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return met, 0, err
		case pid == leader && ws.Exited():
			return met, ws.ExitStatus(), nil
		case pid == leader && ws.Signaled() && enough.Err() != nil && (k == 0 || met < k):
			return met, 0, nil
		case pid == leader && ws.Signaled():
			return met, 128 + int(ws.Signal()), nil
		case !ws.Stopped():
			continue // the end of a thread
		}
		sig := 0
		switch ws.StopSignal() {
		case unix.SIGTRAP | 0x80:
			if enters(pid, nr) {
				if met++; met == k {
					if err := unix.Kill(leader, unix.SIGKILL); err != nil {
						return met, 0, err
					}
				}
			}
		case unix.SIGTRAP, unix.SIGSTOP: // a thread begins
		default:
			sig = int(ws.StopSignal())
		}
		if err := unix.PtraceSyscall(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return met, 0, err
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
