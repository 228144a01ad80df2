package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

const (
	// workCommand makes this program the other process: it works until its input
	// ends.
	workCommand = "work"
	// warmup are events that are not counted: connections and statements are
	// made with the first.
	warmup = 10
)

// latencies stores at a steady rate, each event on its own goroutine as a
// request is, and returns the milliseconds from before the insert to the start
// of the handler in another process.
func (b *bench) latencies(ctx context.Context, c contender) (took []float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n := b.starts + warmup
	cmd := exec.CommandContext(ctx, self, workCommand, c.name(), c.url(), strconv.Itoa(b.slots), strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(out)
	defer func() { err = errors.Join(err, in.Close(), cmd.Wait()) }()
	sent := make(chan error, n)
	tick := time.NewTicker(time.Second / time.Duration(b.perSec))
	defer tick.Stop()
	for i := range n {
		<-tick.C
		go func() { sent <- c.insert(ctx, body(b.body, int64(i)*1000)) }()
		if i == 0 { // it is there when the first has started
			if _, err := lines.ReadString('\n'); err != nil {
				return nil, fmt.Errorf("the process that works: %w", err)
			}
		}
	}
	for range n {
		if err := <-sent; err != nil {
			return nil, err
		}
	}
	err = json.NewDecoder(lines).Decode(&took)
	return took[min(warmup, len(took)):], err
}

// workAsChild prints a line with the first start, and all latencies when there
// are as many as it was told.
func workAsChild(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) != 4 {
		return fmt.Errorf("%s: want a contender, a database, slots and events", workCommand)
	}
	name, database := args[0], args[1]
	slots, err1 := strconv.Atoi(args[2])
	n, err2 := strconv.Atoi(args[3])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	started := make(chan float64, n)
	done := make(chan error, 1)
	go func() { done <- tell(started, n, out) }()
	go func() {
		_, _ = io.Copy(io.Discard, in) // its end is what matters
		stop()
	}()
	handle := func(body []byte) { started <- float64(time.Since(sentAt(body)).Microseconds()) / 1000 }
	work := workOurs
	if name == nameRiver || name == nameRiverHot {
		work = workRiver
	}
	if err := work(ctx, name, database, slots, handle); err != nil {
		return err
	}
	return <-done
}

func tell(started <-chan float64, n int, out io.Writer) error {
	took := make([]float64, n)
	for i := range took {
		took[i] = <-started
		if i == 0 {
			if _, err := fmt.Fprintln(out, "started"); err != nil {
				return err
			}
		}
	}
	return json.NewEncoder(out).Encode(took)
}
