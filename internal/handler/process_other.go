//go:build !unix

package handler

import (
	"errors"
	"io"
	"os"
	"os/exec"
)

// Without process groups only the leader can be ended, and not be asked.
var terminateSignal = os.Kill

func confine(*exec.Cmd) {}

func signalGroup(cmd *exec.Cmd, sig os.Signal) { _ = cmd.Process.Signal(sig) } // an error: it has exited

func mayEnter(string) error { return nil }

func inheritOwner(string) error { return nil }

// lock never tells that the holder of a directory is dead, so that Sweep leaves
// everything where it is.
func lock(_ string, how lockMode) (io.Closer, error) {
	if how == lockTry {
		return nil, errors.ErrUnsupported
	}
	return io.NopCloser(nil), nil
}
