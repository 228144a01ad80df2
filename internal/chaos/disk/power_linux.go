package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"orchestrate/internal/chaos"
)

// power loses the power of one kind of disk.
type power struct {
	dir, bin, way string
	seed          uint64
	control       bool // with synchronous=NORMAL
	stdout        io.Writer
}

// result is what came of it.
type result struct {
	name                           string
	control                        bool
	cycles, acked, again           int
	cleaned                        int64 // cleanups that ended before the power did
	lost, doubled, damaged, others int
	ready                          []time.Duration // from the start of a server
	err                            error
}

func (r result) violations() int { return r.lost + r.doubled + r.damaged + r.others }

// probe does for nothing all that is done to the disk later.
func (p *power) probe(ctx context.Context) error {
	d, err := newDisk(ctx, p.way, filepath.Join(p.dir, "probe"))
	if err != nil {
		return err
	}
	if err := d.mount(ctx); err != nil {
		return err
	}
	err = d.unmount()
	if e, ok := d.(*ext4); ok {
		err = errors.Join(err, d.mount(ctx), e.shutDown(), d.unmount())
	}
	return err
}

// cyclesADisk is how often one disk loses its power before it is replaced by an
// empty one.
const cyclesADisk = 6

// run loses the power so many times. The first violation ends it: what follows
// would be of the same. In the control it is what is looked for.
func (p *power) run(ctx context.Context, cycles int) result {
	r := result{name: p.way, control: p.control}
	if p.control {
		r.name += " NORMAL"
	}
	for n := 0; r.cycles < cycles && r.violations() == 0 && r.err == nil; n++ {
		r.err = p.wear(ctx, n, min(cyclesADisk, cycles-r.cycles), &r)
	}
	return r
}

// one is a disk, with the server on it and those who send to that.
type one struct {
	*power
	disk
	site   *chaos.Site
	sender *chaos.Sender
	server *chaos.Node
	dice   *rand.Rand
	r      *result
}

// wear takes one disk from its first use through some power losses.
func (p *power) wear(ctx context.Context, n, cycles int, r *result) (err error) {
	dir := filepath.Join(p.dir, fmt.Sprintf("%t-%d", p.control, n))
	o := &one{power: p, r: r, dice: rand.New(rand.NewPCG(p.seed, uint64(n)))} //nolint:gosec // seeded, so that a run can be repeated
	if o.disk, err = newDisk(ctx, p.way, filepath.Join(dir, "disk")); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.site, err = chaos.NewSite(dir, p.bin, self, filepath.Join(dir, "disk", "state", "q.db")); err != nil {
		return err
	}
	o.sender = chaos.NewSender(chaos.NewLedger(), o.site.Listen)
	defer func() {
		o.sender.Close()
		r.acked += o.sender.Ledger.Acked()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	for c := range cycles {
		r.cycles++
		if err := o.cycle(ctx, c); err != nil {
			return fmt.Errorf("disk %d, power loss %d: %w", n+1, c+1, err)
		}
		if r.violations() > 0 {
			break
		}
	}
	return nil
}

// cycle starts the server, loses the power, and looks at what is left.
func (o *one) cycle(ctx context.Context, c int) error {
	if err := o.mount(ctx); err != nil {
		return err
	}
	err := o.use(ctx, c)
	if err := errors.Join(err, o.unmount()); err != nil {
		return err
	}
	if err := o.mount(ctx); err != nil {
		return err
	}
	return errors.Join(o.look(ctx), o.unmount())
}

// use has the server used until the power is gone, and every process with it.
func (o *one) use(ctx context.Context, c int) (err error) {
	if o.server == nil {
		o.server, err = o.site.Start("serve", "serve")
	} else {
		err = o.server.Start()
	}
	if err != nil {
		return err
	}
	using, stop := context.WithCancel(ctx)
	defer stop()
	var users sync.WaitGroup
	defer users.Wait()
	defer stop()
	if err := o.untilCut(using, &users, c); err != nil {
		return errors.Join(err, o.server.Kill())
	}
	return errors.Join(o.cut(o.dice.Uint64(), o.server.PID()), o.server.Kill())
}

// untilCut returns at the moment when the power is to go: while the database is
// being made, under load with a cleanup beside it, or right after redeliveries to
// a server that follows one that was killed: some are of rows that its recovery
// found, and that perhaps no fsync covers.
func (o *one) untilCut(ctx context.Context, users *sync.WaitGroup, c int) error {
	load := chaos.Load{
		Seed: o.dice.Uint64(), Name: fmt.Sprintf("c%d", c), Senders: 8, Events: []string{"push", "issues", "fork"},
		Burst: 20, Pause: 20 * time.Millisecond, MaxBody: 40_000,
	}
	redeliver := o.dice.IntN(3) == 0
	if c < 2 && !o.control {
		users.Go(func() { o.sender.Run(ctx, load) })
		return o.pause(ctx, 250*time.Millisecond)
	}
	took, err := o.site.AwaitReady(ctx, o.server, 20*time.Second)
	if err != nil {
		return err
	}
	o.r.ready = append(o.r.ready, took)
	if redeliver && !o.control {
		return o.untilRedelivered(ctx, load)
	}
	users.Go(func() { o.sender.Run(ctx, load) })
	if !o.control {
		users.Go(func() { o.cleanUp(ctx) })
	}
	return o.pause(ctx, time.Second)
}

func (o *one) untilRedelivered(ctx context.Context, load chaos.Load) error {
	var senders sync.WaitGroup
	defer senders.Wait()
	sending, stop := context.WithCancel(ctx)
	defer stop()
	senders.Go(func() { o.sender.Run(sending, load) })
	if err := errors.Join(o.pause(ctx, 300*time.Millisecond), o.server.Kill()); err != nil {
		return err
	}
	stop()
	senders.Wait()
	if err := o.server.Start(); err != nil {
		return err
	}
	took, err := o.site.AwaitReady(ctx, o.server, 20*time.Second)
	if err != nil {
		return err
	}
	o.r.ready = append(o.r.ready, took)
	o.redeliver(ctx)
	return ctx.Err()
}

// pause ends at a random moment.
func (o *one) pause(ctx context.Context, most time.Duration) error {
	select {
	case <-time.After(time.Duration(o.dice.Int64N(int64(most)))):
		return nil
	case <-o.server.Ended():
		return errors.New("the server ended by itself")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// redeliver sends again what was sent last, answered or not.
func (o *one) redeliver(ctx context.Context) {
	entries := o.sender.Ledger.Entries()
	entries = entries[max(0, len(entries)-100):]
	o.r.again += len(entries)
	var wg sync.WaitGroup
	for part := range slices.Chunk(entries, 25) {
		wg.Go(func() {
			for _, e := range part {
				o.sender.Post(ctx, chaos.Delivery{ID: e.ID, Event: e.Event, Body: e.Body})
			}
		})
	}
	wg.Wait()
}

// cleanUp deletes what is done, as an operator's timer does, but all the time.
func (o *one) cleanUp(ctx context.Context) {
	for ctx.Err() == nil {
		if o.site.Command(ctx, "cleanup", "--older-than", "1ms").Run() == nil { // else the power may be gone
			o.r.cleaned++
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// look holds what is on the disk against the ledger, on a copy: the program that
// checks is that which serves the filesystem, and must not map a file of it.
func (o *one) look(ctx context.Context) error {
	dir := filepath.Join(o.site.Dir, "copy")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := copyDatabase(o.site.Database, dir); err != nil {
		return err
	}
	acked := o.sender.Ledger.Acked()
	findings, err := chaos.Check(ctx, filepath.Join(dir, filepath.Base(o.site.Database)), chaos.Facts{Ledger: o.sender.Ledger, Out: o.site.Out})
	switch {
	case err == nil:
		o.count(findings)
	case acked == 0: // it was still being made; whether it can be is told by the next start
	case errors.Is(err, fs.ErrNotExist):
		o.r.lost += acked
		_, _ = fmt.Fprintf(o.stdout, "%s: the database is gone, with %d acknowledged deliveries\n", o.r.name, acked)
	default:
		o.r.damaged++
		_, _ = fmt.Fprintf(o.stdout, "%s: the database can't be read: %s\n", o.r.name, err)
	}
	return nil
}

// copyDatabase copies the file and its WAL, where there are any.
func copyDatabase(database, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, path := range []string{database, database + "-wal"} {
		b, err := os.ReadFile(path) //nolint:gosec // our own
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := errors.Join(err, os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o600)); err != nil { //nolint:gosec // our own
			return err
		}
	}
	return nil
}

// count sorts what was found by what it means, and prints it.
func (o *one) count(findings []chaos.Finding) {
	for _, f := range findings {
		sum := &o.r.others
		switch f.Invariant {
		case 1:
			sum = &o.r.lost
		case 2:
			sum = &o.r.doubled
		case 0:
			sum = &o.r.damaged
		}
		*sum += len(f.Bad)
		for _, bad := range f.Bad[:min(3, len(f.Bad))] {
			_, _ = fmt.Fprintf(o.stdout, "%s: %s: %s\n", o.r.name, f.What, bad)
		}
	}
}

func report(w io.Writer, results []result) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "WAY\tPOWER LOSSES\tACKNOWLEDGED\tREDELIVERED\tCLEANUPS\tLOST\tDOUBLED\tDAMAGED\tOTHER VIOLATIONS\tREADY AFTER (MEDIAN, MOST)")
	for _, r := range results {
		slices.Sort(r.ready)
		ready := "-"
		if len(r.ready) > 0 {
			ready = fmt.Sprintf("%d ms, %d ms", r.ready[len(r.ready)/2].Milliseconds(), r.ready[len(r.ready)-1].Milliseconds())
		}
		_, _ = fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", r.name, r.cycles, r.acked, r.again, r.cleaned, r.lost, r.doubled, r.damaged, r.others, ready)
	}
	_ = t.Flush()
}
