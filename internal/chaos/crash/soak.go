//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"orchestrate/internal/chaos"
)

// census has each worker tell how many goroutines it has, at every heartbeat:
// nothing else of a process tells that.
var census = []chaos.Edit{{
	File: "internal/queue/heartbeat.go",
	Old: `		case <-tick.C:
		case <-w.q.reloaded:`,
	New: `		case <-tick.C:
			_ = os.WriteFile(os.Getenv("CHAOS_OUT")+"/goroutines."+strconv.Itoa(os.Getpid()), []byte(strconv.Itoa(runtime.NumGoroutine())), 0o600)
		case <-w.q.reloaded:`,
}, {
	File: "internal/queue/heartbeat.go",
	Old:  `	"maps"`,
	New: `	"maps"
	"os"
	"runtime"
	"strconv"`,
}}

// sample is what a process, or the database, has at one moment.
type sample map[string]int64

// soak has everything happen for long, at random, and watches what two processes
// that are never killed hold: memory, descriptors, threads, goroutines; and the
// WAL.
func (h *harness) soak(ctx context.Context) (err error) {
	bin, err := chaos.BuildBroken(ctx, h.dir, "census", census)
	if err != nil {
		return err
	}
	s, err := h.site("soak", bin, "")
	if err != nil {
		return err
	}
	s.Env = []string{"CHAOS_OUT=" + s.Out}
	d := &drill{Site: s, out: h, dice: rand.New(rand.NewPCG(h.seed, 0)), ledger: chaos.NewLedger(), pause: 20 * time.Second} //nolint:gosec // seeded
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := d.up(ctx, 4); err != nil {
		return err
	}
	stop := d.work(ctx)
	samples := map[string][]sample{}
	var watching sync.WaitGroup
	soaking, over := context.WithTimeout(ctx, h.lasts)
	defer over()
	watching.Go(func() { d.watch(soaking, samples) })
	for soaking.Err() == nil {
		if err = d.fault(soaking); err != nil {
			break
		}
	}
	over()
	stop()
	watching.Wait()
	if err != nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(d.end(ctx, int(h.lasts/time.Minute)), h.flat(samples))
}

// fault does something to one process, never killing the server and the first
// worker.
func (d *drill) fault(ctx context.Context) error {
	chaos.Pause(ctx, time.Duration(1000+d.dice.IntN(5000))*time.Millisecond)
	victim := d.workers[1+d.dice.IntN(len(d.workers)-1)]
	switch d.dice.IntN(8) {
	case 0, 1, 2, 3:
		return errors.Join(d.kill(victim), victim.Start())
	case 4: // for longer than a lease, now and then
		err := victim.Signal(syscall.SIGSTOP)
		chaos.Pause(ctx, time.Duration(d.dice.IntN(25))*time.Second)
		return errors.Join(err, victim.Signal(syscall.SIGCONT))
	case 5:
		err := d.serve.Signal(syscall.SIGSTOP)
		chaos.Pause(ctx, time.Duration(d.dice.IntN(3000))*time.Millisecond)
		return errors.Join(err, d.serve.Signal(syscall.SIGCONT))
	case 6:
		return errors.Join(d.serve.Signal(syscall.SIGHUP), d.workers[0].Signal(syscall.SIGHUP))
	default:
		code, err := victim.Stop(20 * time.Second)
		if err == nil && code != 0 {
			err = fmt.Errorf("%s ended with %d", victim.LogFile(), code)
		}
		return errors.Join(err, victim.Start())
	}
}

func (d *drill) watch(ctx context.Context, samples map[string][]sample) {
	for ctx.Err() == nil {
		chaos.Pause(ctx, 5*time.Second)
		samples["serve"] = append(samples["serve"], d.look(d.serve))
		samples["worker"] = append(samples["worker"], d.look(d.workers[0]))
		if st, err := os.Stat(d.Database + "-wal"); err == nil {
			samples["database"] = append(samples["database"], sample{"WAL, KiB": st.Size() >> 10})
		}
	}
}

// look reads what the kernel knows of a process, and its own census.
func (d *drill) look(n *chaos.Node) sample {
	proc := fmt.Sprintf("/proc/%d/", n.PID())
	s := sample{}
	status, _ := os.ReadFile(proc + "status") //nolint:gosec // the kernel's; none: it has ended
	for line := range bytes.Lines(status) {
		if fields := strings.Fields(string(line)); len(fields) > 1 {
			value, _ := strconv.ParseInt(fields[1], 10, 64)
			switch fields[0] {
			case "VmRSS:":
				s["memory, KiB"] = value
			case "VmHWM:":
				s["memory at most, KiB"] = value
			case "Threads:":
				s["threads"] = value
			}
		}
	}
	if fds, err := os.ReadDir(proc + "fd"); err == nil {
		s["descriptors"] = int64(len(fds))
	}
	text, _ := os.ReadFile(filepath.Join(d.Out, fmt.Sprintf("goroutines.%d", n.PID())))
	if count, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		s["goroutines"] = count
	}
	return s
}

// slack is what the last quarter of a soak may have more than the second one,
// beside a fifth: threads and descriptors come with load, garbage goes late.
var slack = map[string]int64{"memory, KiB": 16 << 10, "threads": 8, "descriptors": 16, "goroutines": 32, "WAL, KiB": 8 << 10}

// flat compares the second quarter with the last, by their medians.
func (h *harness) flat(samples map[string][]sample) error {
	t := tabwriter.NewWriter(h.out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "OF\tWHAT\tSAMPLES\tSECOND QUARTER\tLAST QUARTER\tMOST")
	var errs []error
	for _, of := range []string{"serve", "worker", "database"} {
		for what, more := range slack {
			var values []int64
			for _, s := range samples[of] {
				if v, ok := s[what]; ok {
					values = append(values, v)
				}
			}
			if (of == "database") != (what == "WAL, KiB") {
				continue // it has none
			}
			if len(values) < 8 {
				errs = append(errs, fmt.Errorf("%s of %s was seen %d times, too few to tell", what, of, len(values)))
				continue
			}
			quarter := len(values) / 4
			before, after := median(values[quarter:2*quarter]), median(values[3*quarter:])
			_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\n", of, what, len(values), before, after, slices.Max(values))
			if after > before+before/5+more {
				errs = append(errs, fmt.Errorf("%s of %s grew from %d to %d", what, of, before, after))
			}
		}
	}
	_ = t.Flush()
	return errors.Join(errs...)
}

func median(values []int64) int64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
