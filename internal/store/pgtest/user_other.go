//go:build !unix

package pgtest

import (
	"io"
	"os/exec"
)

func own(string) error { return nil }

func asUser(*exec.Cmd) {}

// watch has no way here: a server whose tests are killed stays.
func (*Server) watch() (io.Closer, error) { return io.NopCloser(nil), nil }
