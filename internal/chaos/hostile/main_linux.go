// Hostile attacks the built program over HTTP, on the loopback, while good
// deliveries go on: thousands of connections that drip, bodies that never come or
// never end, floods of wrong signatures, more large bodies than memory. It prints
// what each attack did, and ends with 0, or with 1 when a good delivery was
// refused or late, a stranger's request wrote something, the log or the memory
// grew beyond its bound, or the server was away.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"orchestrate/internal/chaos"
)

type options struct {
	bin         string
	connections int
	last        time.Duration // each attack, at least
	bodies      int           // of 25 MiB at once
	only        string
}

func main() { os.Exit(chaos.Main("hostile", os.Args[1:], os.Stdin, os.Stdout, os.Stderr, run)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var o options
	f := flag.NewFlagSet("hostile", flag.ContinueOnError)
	f.StringVar(&o.bin, "program", "", "the built program; empty: build it")
	f.IntVar(&o.connections, "connections", 2000, "slow connections at a time")
	f.DurationVar(&o.last, "for", 1500*time.Millisecond, "how long each attack lasts")
	f.IntVar(&o.bodies, "bodies", 40, "bodies of 25 MiB at once")
	f.StringVar(&o.only, "only", "", "only the attack of this name")
	if err := chaos.Parse(f, args, stderr); err != nil {
		return err
	}
	if o.only != "" && !slices.ContainsFunc(attacks, func(a attack) bool { return a.name == o.only }) {
		return chaos.Misused("hostile", stderr, "there is no attack %q", o.only)
	}
	dir, err := os.MkdirTemp("", "hostile-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.bin == "" {
		if o.bin, err = chaos.Build(ctx, dir); err != nil {
			return err
		}
	}
	bad, err := attackAll(ctx, stdout, dir, o)
	for _, b := range bad {
		err = errors.Join(err, errors.New(b))
	}
	return err
}

// attackAll makes one attack after the other on one server.
func attackAll(ctx context.Context, w io.Writer, dir string, o options) ([]string, error) {
	t, err := newTarget(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = t.site.Close() }()
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	defer func() { _ = table.Flush() }()
	_, _ = fmt.Fprintln(table, "ATTACK\tCONNECTIONS\tREFUSED\tPER CPU-SECOND\tGOOD\tP99\tMAX\tRSS PEAK\tLOG LINES\tROWS BY STRANGERS")
	for _, a := range attacks {
		if o.only != "" && o.only != a.name {
			continue
		}
		if a.fills { // what it stores is not in the ledger
			if err := t.check(ctx); err != nil {
				return t.bad, err
			}
		}
		r, err := t.meet(ctx, a)
		if err != nil {
			return t.bad, fmt.Errorf("%s: %w", a.name, err)
		}
		_, _ = fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%d\t%s\t%s\t%d MB\t%d\t%d\n", a.name, r.connections, r.refused, r.rate(),
			r.good, r.p99.Round(time.Millisecond), r.worst.Round(time.Millisecond), r.peak>>20, r.lines, r.rows)
	}
	return t.bad, t.finish()
}
