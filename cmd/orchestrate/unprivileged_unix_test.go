//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// nobody is a user who owns nothing.
const nobody = 65534

// unprivileged runs a command as a user whom permissions bind: root is not.
func unprivileged(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: unprivileged N command...")
	}
	if os.Geteuid() != 0 {
		exitCode(ts, neg, args)
		return
	}
	cmd := exec.Command(reachableCopy(ts), args[2:]...)
	cmd.Args[0] = args[1]
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "ORCHESTRATE_LISTEN", "ORCHESTRATE_ADMIN_LISTEN"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	err := cmd.Run()
	_, _ = ts.Stdout().Write(stdout.Bytes())
	_, _ = ts.Stderr().Write(stderr.Bytes())
	checkCode(ts, args[0], err)
}

// reachableCopy links the program to where another user can start it: it lies in
// a directory of its own user.
func reachableCopy(ts *testscript.TestScript) string {
	from, err := builtOnce()
	ts.Check(err)
	to := filepath.Join(ts.Getenv("WORK"), "bin", "orchestrate")
	ts.Check(os.MkdirAll(filepath.Dir(to), 0o755))
	if err := os.Link(from, to); err != nil && !os.IsExist(err) {
		ts.Fatalf("%v", err)
	}
	return to
}
