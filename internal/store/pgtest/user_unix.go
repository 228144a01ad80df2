//go:build unix

package pgtest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is who runs the server where the tests run as root.
func account() (uid, gid int, err error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		return uid, gid, errors.Join(err1, err2)
	}
	return 0, 0, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

// own gives a directory to the account.
func own(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := account()
	if err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}

func asUser(cmd *exec.Cmd) {
	if os.Geteuid() != 0 {
		return
	}
	if uid, gid, err := account(); err == nil { // own has told
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
}

// watch starts a guard that outlives this process, however that ends, and then
// stops the server and removes its directory: kill -9 and the panic of a test
// that took too long run no cleanup. It reads a pipe whose other end nobody else
// has. Rejected: the kernel's signal at a parent's death, which only Linux has,
// which comes with the end of a thread, and which leaves the directory.
func (s *Server) watch() (io.Closer, error) {
	guard := s.command("/bin/sh", "-c", `read -r _; "$1/pg_ctl" -D "$2/data" -m immediate -w stop; cd /; rm -rf "$2"`, "guard", s.bin, s.dir)
	if guard.SysProcAttr == nil {
		guard.SysProcAttr = &syscall.SysProcAttr{}
	}
	guard.SysProcAttr.Setsid = true // what ends a whole group does not end it
	alive, err := guard.StdinPipe()
	if err != nil {
		return nil, err
	}
	return guarded{alive, guard}, guard.Start()
}

// guarded is the pipe to a guard.
type guarded struct {
	io.Closer
	guard *exec.Cmd
}

// Close waits for the guard.
func (g guarded) Close() error {
	return errors.Join(g.Closer.Close(), g.guard.Wait())
}
