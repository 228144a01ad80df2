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
	"path/filepath"
	"slices"
	"strings"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

func main() { os.Exit(chaos.Main("faults", os.Args[1:], os.Stdin, os.Stdout, os.Stderr, run)) }

type options struct {
	only   string
	within string // the directory of the program that runs in namespaces
	seed   uint64
	short  bool
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	f := flag.NewFlagSet("faults", flag.ContinueOnError)
	f.StringVar(&o.only, "only", "", "run the faults whose name contains this")
	f.BoolVar(&o.short, "short", false, "of what is tried one by one only every fifth")
	f.Uint64Var(&o.seed, "seed", uint64(queue.Clock().UnixNano()), "of what a loss of power keeps")
	f.StringVar(&o.within, "within", "", "set by the program itself")
	if err := chaos.Parse(f, args, stderr); err != nil {
		return err
	}
	if !slices.ContainsFunc(scenarios(), o.wants) {
		return chaos.Misused("faults", stderr, "there is no fault with %q in its name", o.only)
	}
	if o.within != "" {
		return runAll(ctx, o, stdout)
	}
	return chaos.Again(ctx, args, stdout, stderr, func(dir string) error {
		_, err := chaos.Build(ctx, dir)
		return err
	})
}

func (o options) wants(s scenario) bool { return strings.Contains(s.name, o.only) }

func runAll(ctx context.Context, o options, stdout io.Writer) error {
	_, _ = fmt.Fprintf(stdout, "seed %d\n", o.seed)
	var errs []error
	for i, s := range scenarios() {
		if !o.wants(s) || ctx.Err() != nil {
			continue
		}
		begun := queue.Clock()
		told, err := s.in(ctx, filepath.Join(o.within, "tmp", fmt.Sprint(i)), o)
		word := "ok"
		if missing := (chaos.NotRun{}); errors.As(err, &missing) {
			return err
		}
		if err != nil {
			word = "FAILED: " + err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		_, _ = fmt.Fprintf(stdout, "%-28s %5.1f s  %s; %s\n", s.name, queue.Clock().Sub(begun).Seconds(), strings.Join(told, ", "), word)
	}
	return errors.Join(append(errs, ctx.Err())...)
}

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
