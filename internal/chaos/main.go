//go:build unix

package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"syscall"
)

// The exit codes of the fault tests.
const (
	failed  = 1
	misused = 2
	notRun  = 3
)

// NotRun says why this machine does not allow a fault test.
type NotRun struct{ Why string }

func (e NotRun) Error() string { return "not run: " + e.Why }

// errExit is the exit code of a program that has told why.
type errExit int

func (e errExit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// ErrMisused is a command line that can't be read; the reason was printed.
var ErrMisused = errors.New("the command line can't be read")

// Parse reads flags; nothing else may be on the command line.
func Parse(f *flag.FlagSet, args []string, stderr io.Writer) error {
	f.SetOutput(stderr)
	if f.Parse(args) != nil {
		return ErrMisused
	}
	if f.NArg() > 0 {
		return Misused(f.Name(), stderr, "unexpected argument %q", f.Arg(0))
	}
	return nil
}

// Misused prints what is wrong with a command line.
func Misused(name string, stderr io.Writer, format string, args ...any) error {
	_, _ = fmt.Fprintf(stderr, name+": "+format+"\n", args...)
	return ErrMisused
}

// Main runs the fault test of this name, until it is interrupted, and returns its
// exit code: 1 when something that was promised did not hold, 2 for a command line
// that can't be read, 3 where the machine does not allow it. Called as "handle" it
// is the handler of a Site.
func Main(name string, args []string, stdin io.Reader, stdout, stderr io.Writer,
	test func(ctx context.Context, args []string, stdout, stderr io.Writer) error,
) int {
	if len(args) > 0 && args[0] == "handle" {
		return Handle(context.Background(), stdin)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := test(ctx, args, stdout, stderr)
	var missing NotRun
	var exit errExit
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrMisused):
		return misused
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &missing):
		_, _ = fmt.Fprintln(stdout, missing)
		return notRun
	}
	_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return failed
}
