//go:build unix

// Crash proves that the queue loses nothing when its processes are killed. It
// builds the program, runs a server, three workers, cleanups and an operator's
// requeues on one database under load, kills one of them after the other, and
// holds everything that was promised against the database, the sender's ledger
// and the handlers' own record. Then it does the same with programs that were
// broken on purpose: a check that does not notice is no proof.
//
// It ends with 0, and with 1 when something was lost, doubled or run too early, or
// when a broken program was not found out.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "obey" {
		os.Exit(obey(context.Background(), os.Stdin))
	}
	if len(os.Args) > 1 && os.Args[1] == "killat" {
		os.Exit(chaos.KillAt(context.Background(), os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(chaos.Main("crash", os.Args[1:], os.Stdin, os.Stdout, os.Stderr, run))
}

// options of a run.
type options struct {
	seed     uint64
	parts    string
	cycles   int
	postgres int
	calls    int
	lasts    time.Duration // a soak; 0: none
	stopped  int
	poisons  int
	keep     bool
}

func (o options) wants(name string) bool {
	return o.parts == "" || slices.Contains(strings.Split(o.parts, ","), name)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("crash", flag.ContinueOnError)
	flags.Uint64Var(&o.seed, "seed", 1, "of everything that is random")
	flags.StringVar(&o.parts, "parts", "", "only these, with commas between: "+strings.Join(partNames(), ","))
	flags.IntVar(&o.cycles, "cycles", 50, "kills on SQLite")
	flags.IntVar(&o.postgres, "postgres", 20, "kills on PostgreSQL")
	flags.IntVar(&o.calls, "calls", 25, "at how many system calls of each kind to kill")
	flags.DurationVar(&o.lasts, "soak", 0, "everything at random for so long, and nothing else")
	flags.IntVar(&o.stopped, "zombies", 20, "claims of workers that are stopped until others have finished them")
	flags.IntVar(&o.poisons, "poisons", 3, "payloads that kill their worker")
	flags.BoolVar(&o.keep, "keep", false, "keep the directory, also when all is well")
	if err := chaos.Parse(flags, args, stderr); err != nil {
		return err
	}
	for name := range strings.SplitSeq(o.parts, ",") {
		if name != "" && !slices.Contains(partNames(), name) {
			return chaos.Misused("crash", stderr, "unknown part %q: want one of %s", name, strings.Join(partNames(), ", "))
		}
	}
	h, err := newHarness(ctx, o, stdout)
	if err == nil {
		err = errors.Join(h.all(ctx), h.close())
	}
	if err != nil {
		return fmt.Errorf("%w\nto run it again: crash -seed %d -parts %s", err, o.seed, o.parts)
	}
	return nil
}

// harness is one run, with a directory for all that it makes.
type harness struct {
	options
	out     io.Writer
	dir     string
	bin     string // the program as it is released
	handler string // this program
	failed  bool
	mu      sync.Mutex // of all reports
	built   *broken
}

// broken is the program with all its mutants, built once.
type broken struct {
	sync.Once
	bin string
	err error
}

func newHarness(ctx context.Context, o options, out io.Writer) (*harness, error) {
	dir, err := os.MkdirTemp("", "orchestrate-crash-")
	if err != nil {
		return nil, err
	}
	h := &harness{options: o, out: out, dir: dir, built: &broken{}}
	if h.handler, err = os.Executable(); err != nil {
		return nil, err
	}
	h.bin, err = chaos.Build(ctx, dir)
	return h, err
}

// close removes the directory, unless somebody will want to look at it.
func (h *harness) close() error {
	if h.keep || h.failed {
		h.say("kept: %s", h.dir)
		return nil
	}
	return os.RemoveAll(h.dir)
}

func (h *harness) say(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, _ = fmt.Fprintf(h.out, format+"\n", args...)
}

// part is one proof, with a report of its own.
type part struct {
	name string
	run  func(*harness, context.Context) error
}

// stages are run one after the other, the parts of one at the same time: they
// wait for leases and retries, mostly.
var stages = [][]part{
	{{"handlers", (*harness).handlers}},
	{{"kills", (*harness).killsSQLite}, {"postgres", (*harness).killsPostgres}, {"order", (*harness).order}, {"leases", (*harness).leases}},
	{{"calls", (*harness).killAtCalls}, {"mutants", (*harness).findMutants}},
}

func partNames() (names []string) {
	for _, stage := range stages {
		for _, p := range stage {
			names = append(names, p.name)
		}
	}
	return names
}

func (h *harness) all(ctx context.Context) error {
	begun := queue.Clock()
	stages := stages
	if h.lasts > 0 {
		stages = [][]part{{{"soak", (*harness).soak}}}
	}
	var errs []error
	for _, stage := range stages {
		var wg sync.WaitGroup
		for _, p := range stage {
			if h.wants(p.name) && ctx.Err() == nil {
				wg.Go(func() {
					err := h.one(ctx, p)
					h.mu.Lock()
					errs = append(errs, err)
					h.mu.Unlock()
				})
			}
		}
		wg.Wait()
	}
	h.say("\nall took %s", queue.Clock().Sub(begun).Round(time.Second))
	err := errors.Join(append(errs, context.Cause(ctx))...)
	h.failed = err != nil
	return err
}

// one runs a part, and prints its report in one piece.
func (h *harness) one(ctx context.Context, p part) error {
	start := queue.Clock()
	var report bytes.Buffer
	own := &harness{options: h.options, out: &report, dir: h.dir, bin: h.bin, handler: h.handler, built: h.built}
	own.say("\n%s (seed %d)", p.name, h.seed)
	err := p.run(own, ctx)
	if missing := (errMissing{}); errors.As(err, &missing) && os.Getenv("CI") != "true" {
		own.say("not run: %s", missing.what)
		err = nil
	}
	own.say("%s took %s", p.name, queue.Clock().Sub(start).Round(time.Second))
	h.mu.Lock()
	defer h.mu.Unlock()
	_, _ = h.out.Write(report.Bytes())
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// errMissing says what this machine lacks: where CI is true that is a failure.
type errMissing struct{ what string }

func (e errMissing) Error() string { return e.what }

// site makes one in a directory of its own.
func (h *harness) site(name, bin, database string) (*chaos.Site, error) {
	dir := filepath.Join(h.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return chaos.NewSite(dir, bin, h.handler, database)
}
