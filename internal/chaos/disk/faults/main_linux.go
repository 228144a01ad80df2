// Faults runs the program on a disk that fails: fsyncs that err, no room left,
// read-only, slow fsyncs; and with too few file descriptors. After each fault the
// database is held against the sender's ledger, after a loss of power, too.
//
// It ends with 0, with 1 when a promise was broken, and with 3 when the kernel
// does not allow it to mount. It is started where the program's module is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

const (
	failed = 1
	notRun = 3
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "handle" {
		os.Exit(chaos.Handle(context.Background(), os.Stdin))
	}
	os.Exit(run(os.Stdout, os.Stderr))
}

type options struct {
	only  string
	bin   string
	seed  uint64
	short bool
}

func run(stdout, stderr io.Writer) int {
	var o options
	f := flag.NewFlagSet("faults", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.only, "only", "", "run the faults whose name contains this")
	f.BoolVar(&o.short, "short", false, "of what is tried one by one only every fifth")
	f.StringVar(&o.bin, "bin", "", "the program; empty: build it")
	f.Uint64Var(&o.seed, "seed", uint64(queue.Clock().UnixNano()), "of what a loss of power keeps")
	if f.Parse(os.Args[1:]) != nil || f.NArg() > 0 {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	code, err := runAll(ctx, o, stdout)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "faults:", err)
	}
	return code
}

func runAll(ctx context.Context, o options, stdout io.Writer) (code int, err error) {
	dir, err := os.MkdirTemp("", "faults-")
	if err != nil {
		return failed, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.bin == "" {
		if o.bin, err = chaos.Build(ctx, dir, ""); err != nil {
			return failed, err
		}
	}
	_, _ = fmt.Fprintf(stdout, "seed %d\n", o.seed)
	for i, s := range scenarios() {
		if !strings.Contains(s.name, o.only) || ctx.Err() != nil {
			continue
		}
		begun := queue.Clock()
		told, err := s.in(ctx, filepath.Join(dir, fmt.Sprint(i)), o)
		if errors.Is(err, errNoMount) {
			_, _ = fmt.Fprintf(stdout, "not run: %s\n", err)
			return notRun, nil
		}
		word := "ok"
		if err != nil {
			word, code = "FAILED: "+err.Error(), failed
		}
		_, _ = fmt.Fprintf(stdout, "%-28s %5.1f s  %s; %s\n", s.name, queue.Clock().Sub(begun).Seconds(), strings.Join(told, ", "), word)
	}
	if ctx.Err() != nil {
		return failed, ctx.Err()
	}
	return code, nil
}

var errNoMount = errors.New("nothing can be mounted here")

// scenario is a fault and what is promised of it.
type scenario struct {
	name string
	run  func(context.Context, *lab) error
}

func (s scenario) in(ctx context.Context, dir string, o options) (told []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l, err := newLab(dir, o)
	if err != nil {
		return nil, err
	}
	err = s.run(ctx, l)
	return l.told, errors.Join(err, l.close())
}
