// Command peers measures the store on both of its databases beside River, a job
// queue on PostgreSQL, in one run on one server: a module of its own, so that
// River's dependencies never reach the program's.
//
// A round measures every contender once, each time beginning with another one,
// so that what else the machine does meets all alike. What counts is the ratio
// of a round; its median is shown with the worst and the best.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"orchestrate/internal/store/pgtest"
)

// sizes are how much is measured.
type sizes struct {
	rounds   int
	senders  int // goroutines that store at once
	slots    int // handlers at once
	body     int // bytes
	events   int // stored in a run
	jobs     int // worked off in a run
	starts   int // latencies of a run
	perSec   int // events a second, while latencies are measured
	few      int // finished rows of a small database
	many     int // and of a large one
	claims   int // timed in a run
	churn    int // jobs claimed and settled under an old snapshot
	sections string
	settings pgtest.Settings
}

var full = sizes{
	rounds: 5, senders: 64, slots: 100, body: 10 << 10, events: 5000, jobs: 5000, starts: 300, perSec: 50,
	few: 10_000, many: 2_000_000, claims: 100, churn: 50_000, sections: "store,work,start,claim",
	settings: pgtest.Durable,
}

// short shows that everything runs, on a server that syncs nothing; its figures
// mean nothing.
var short = sizes{
	rounds: 1, senders: 8, slots: 10, body: 1 << 10, events: 100, jobs: 100, starts: 10, perSec: 50,
	few: 100, many: 1000, claims: 5, churn: 200, sections: full.sections,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) > 0 && args[0] == workCommand { // the other process of a measurement
		return workAsChild(ctx, args[1:], os.Stdin, out)
	}
	s, file := full, ""
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.BoolFunc("short", "tiny sizes, to see that it runs", func(string) error { s = short; return nil })
	flags.StringVar(&file, "json", "", "write the figures to this `file`, too")
	rounds := flags.Int("rounds", 0, "instead of 5")
	only := flags.String("only", "", "measure only these, of store,work,start,claim")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rounds > 0 {
		s.rounds = *rounds
	}
	if *only != "" {
		s.sections = *only
	}
	r := &report{Sizes: s.told(), out: out, progress: progress}
	if err := measure(ctx, s, r); err != nil {
		return err
	}
	r.print()
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o600)
}

func (s sizes) told() map[string]int {
	return map[string]int{
		"rounds": s.rounds, "senders": s.senders, "slots": s.slots, "body_bytes": s.body, "events": s.events, "jobs": s.jobs,
		"starts": s.starts, "starts_per_second": s.perSec, "finished_rows_few": s.few, "finished_rows_many": s.many,
		"claims": s.claims, "churn": s.churn,
	}
}

func (s sizes) wants(section string) bool {
	return slices.Contains(strings.Split(s.sections, ","), section)
}

func measure(ctx context.Context, s sizes, r *report) (err error) {
	b, err := newBench(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r.Machine = b.machine(ctx)
	for _, section := range []struct {
		name string
		do   func(context.Context, *bench, *report) error
	}{{"store", measureStore}, {"work", measureWork}, {"start", measureStart}, {"claim", measureClaims}} {
		if !s.wants(section.name) {
			continue
		}
		if err := section.do(ctx, b, r); err != nil {
			return fmt.Errorf("%s: %w", section.name, err)
		}
	}
	return nil
}
