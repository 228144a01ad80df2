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
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

const (
	failed = 1
	notRun = 3
)

type options struct {
	seed    uint64
	cycles  map[string]int // by way
	control int            // cycles at most
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "handle" {
		os.Exit(chaos.Handle(context.Background(), os.Stdin))
	}
	os.Exit(run(os.Stdout, os.Stderr))
}

func run(stdout, stderr io.Writer) int {
	o, within, err := parse(os.Args[1:], stderr)
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if within != "" {
		return cutPower(ctx, o, within, stdout, stderr)
	}
	code, err := isolate(ctx, stdout, stderr)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "disk:", err)
	}
	return code
}

// parse reads the command line. within is the directory of the program that runs
// in namespaces, to which isolate adds it.
func parse(args []string, stderr io.Writer) (o options, within string, err error) {
	f := flag.NewFlagSet("disk", flag.ContinueOnError)
	f.SetOutput(stderr)
	way := f.String("way", "both", "ext4, fuse or both")
	f.Uint64Var(&o.seed, "seed", uint64(queue.Clock().UnixNano()), "of what is random; the times at which things happen stay the machine's")
	ext4 := f.Int("ext4-cycles", 8, "power losses of ext4")
	fuse := f.Int("fuse-cycles", 20, "power losses of faultfs")
	f.IntVar(&o.control, "control", 6, "power losses at most, each way, until synchronous=NORMAL has lost something")
	f.StringVar(&within, "within", "", "set by the program itself")
	if err := f.Parse(args); err != nil {
		return o, "", err
	}
	all := map[string]int{"ext4": *ext4, "fuse": *fuse}
	switch {
	case f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	case *way == "both":
		o.cycles = all
	case all[*way] == 0:
		err = fmt.Errorf("-way is %q, want ext4, fuse or both, with cycles", *way)
	default:
		o.cycles = map[string]int{*way: all[*way]}
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "disk:", err)
	}
	return o, within, err
}

// isolate runs this program again where its mounts stay its own.
func isolate(ctx context.Context, stdout, stderr io.Writer) (code int, err error) {
	runtime.LockOSThread() // with it what we start would end
	dir, err := os.MkdirTemp("", "disk-")
	if err != nil {
		return failed, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, scratch := filepath.Join(dir, "bin"), filepath.Join(dir, "tmp")
	if err := errors.Join(os.Mkdir(bin, 0o700), os.Mkdir(scratch, 0o700)); err != nil {
		return failed, err
	}
	if out, err := chaos.Isolated(ctx, 0, scratch, "").CombinedOutput(); err != nil {
		_, _ = fmt.Fprintf(stdout, "not run: nothing can be mounted here: %s %s\n", err, strings.Join(strings.Fields(string(out)), " "))
		return notRun, nil
	}
	for _, tags := range []string{"", "chaos"} {
		if _, err := chaos.Build(ctx, bin, tags); err != nil {
			return failed, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return failed, err
	}
	args := append([]string{self}, os.Args[1:]...)
	cmd := chaos.Isolated(ctx, 0, scratch, "\nexport TMPDIR=\"$0\"\n\"$@\"\nexit\n", append(args, "-within", dir)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode(), nil // it told why
	}
	if err != nil {
		return failed, err
	}
	return 0, nil
}

// cutPower runs every way, and then its control.
func cutPower(ctx context.Context, o options, dir string, stdout, stderr io.Writer) int {
	_, _ = fmt.Fprintf(stdout, "seed %d\n", o.seed)
	begun := queue.Clock()
	code := 0
	var results []result
	for _, way := range slices.Sorted(maps.Keys(o.cycles)) {
		p := &power{dir: filepath.Join(dir, "tmp", way), bin: filepath.Join(dir, "bin", "orchestrate-"), way: way, seed: o.seed, stdout: stdout}
		if err := p.probe(ctx); err != nil {
			_, _ = fmt.Fprintf(stdout, "not run: %s: %s\n", way, err)
			code = notRun
			continue
		}
		full := p.run(ctx, o.cycles[way])
		p.bin, p.control = filepath.Join(dir, "bin", "orchestrate-chaos"), true
		normal := p.run(ctx, o.control)
		results = append(results, full, normal)
	}
	report(stdout, results)
	_, _ = fmt.Fprintf(stdout, "in %.0f s\n", queue.Clock().Sub(begun).Seconds())
	for _, r := range results {
		if r.err != nil {
			_, _ = fmt.Fprintf(stderr, "disk: %s: %s\n", r.name, r.err)
			code = failed
		}
		if !r.control && r.violations() > 0 {
			code = failed
		}
		if r.control && r.lost == 0 {
			_, _ = fmt.Fprintf(stderr, "disk: %s: nothing was lost: this proves nothing\n", r.name)
			code = failed
		}
		if !r.control && r.cycles > cyclesADisk && r.cleaned == 0 {
			_, _ = fmt.Fprintf(stderr, "disk: %s: no cleanup ran to its end beside the deliveries\n", r.name)
			code = failed
		}
	}
	if code == failed {
		_, _ = fmt.Fprintf(stderr, "disk: again with: -seed %s\n", strconv.FormatUint(o.seed, 10))
	}
	return code
}
