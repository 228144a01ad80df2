// Disk cuts the power under a server that takes deliveries, over and over, and
// holds what a restart finds against the senders' own ledger. It does so on two
// disks: ext4 on a loop device, shut down by EXT4_IOC_SHUTDOWN without a flush of
// its log, and faultfs, which forgets what was not synced. Then it does the same
// with synchronous=NORMAL: unless something is lost there, it proves nothing, and
// that is a failure.
//
// It ends with 0, with 1 when something was lost, and with 3 when the kernel, or
// whoever is responsible for this machine, does not allow it. It is started where
// the program's module is. Everything runs in namespaces of its own, with which
// its mounts, loop devices, files and processes go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

type options struct {
	seed    uint64
	cycles  map[string]int // by way
	control int            // cycles at most
}

func main() { os.Exit(chaos.Main("disk", os.Args[1:], os.Stdin, os.Stdout, os.Stderr, run)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, within, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if within != "" {
		return cutPower(ctx, o, within, stdout)
	}
	return chaos.Again(ctx, args, stdout, stderr, func(dir string) error {
		_, err1 := chaos.Build(ctx, dir)
		_, err2 := chaos.BuildBroken(ctx, dir, "normal", chaos.LessDurable)
		return errors.Join(err1, err2)
	})
}

// parse reads the command line. within is the directory of the program that runs
// in namespaces.
func parse(args []string, stderr io.Writer) (o options, within string, err error) {
	f := flag.NewFlagSet("disk", flag.ContinueOnError)
	way := f.String("way", "both", "ext4, fuse or both")
	f.Uint64Var(&o.seed, "seed", uint64(queue.Clock().UnixNano()), "of what is random; the times at which things happen stay the machine's")
	ext4 := f.Int("ext4-cycles", 8, "power losses of ext4")
	fuse := f.Int("fuse-cycles", 20, "power losses of faultfs")
	f.IntVar(&o.control, "control", 6, "power losses at most, each way, until synchronous=NORMAL has lost something")
	f.StringVar(&within, "within", "", "set by the program itself")
	if err := chaos.Parse(f, args, stderr); err != nil {
		return o, "", err
	}
	o.cycles = map[string]int{"ext4": *ext4, "fuse": *fuse}
	if *way != "both" {
		if o.cycles[*way] == 0 {
			return o, "", chaos.Misused("disk", stderr, "-way is %q, want ext4, fuse or both, with cycles", *way)
		}
		o.cycles = map[string]int{*way: o.cycles[*way]}
	}
	return o, within, nil
}

// cutPower runs every way, and then its control.
func cutPower(ctx context.Context, o options, dir string, stdout io.Writer) error {
	_, _ = fmt.Fprintf(stdout, "seed %d\n", o.seed)
	begun := queue.Clock()
	var errs, missing []error
	var results []result
	for _, way := range slices.Sorted(maps.Keys(o.cycles)) {
		p := &power{dir: filepath.Join(dir, "tmp", way), bin: filepath.Join(dir, "orchestrate"), way: way, seed: o.seed, stdout: stdout}
		if err := p.probe(ctx); err != nil {
			missing = append(missing, chaos.NotRun{Why: way + ": " + err.Error()})
			continue
		}
		full := p.run(ctx, o.cycles[way])
		p.bin, p.control = filepath.Join(dir, "normal", "orchestrate"), true
		results = append(results, full, p.run(ctx, o.control))
	}
	report(stdout, results)
	_, _ = fmt.Fprintf(stdout, "in %.0f s\n", queue.Clock().Sub(begun).Seconds())
	for _, r := range results {
		errs = append(errs, r.judge())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\nagain with: -seed %d", err, o.seed)
	}
	return errors.Join(missing...)
}

// judge tells what is wrong with a result.
func (r result) judge() error {
	switch {
	case r.err != nil:
		return fmt.Errorf("%s: %w", r.name, r.err)
	case r.control && r.lost == 0:
		return fmt.Errorf("%s: nothing was lost: this proves nothing", r.name)
	case !r.control && r.violations() > 0:
		return fmt.Errorf("%s: %d violations", r.name, r.violations())
	case !r.control && r.cycles > cyclesADisk && r.cleaned == 0:
		return fmt.Errorf("%s: no cleanup ran to its end beside the deliveries", r.name)
	}
	return nil
}
