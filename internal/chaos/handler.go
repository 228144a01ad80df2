//go:build unix

package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orchestrate/internal/queue"
)

// OutVariable names the directory in which handlers write, to them and to
// whoever looks for those that are left.
const OutVariable = "CHAOS_OUT"

// Routes are what the handlers do: their exit codes and times depend on the
// idempotency key and the attempt alone.
var Routes = map[string][]string{ // by event
	"push":    {"work"},
	"issues":  {"flaky", "slow"},
	"watch":   {"family"},
	"fork":    {"work", "flaky", "slow"},
	"release": {"long"},
	"delete":  {"dead"},
	"ping":    nil,
}

// LongRun is how long the handler of the route long takes: less than a lease.
const LongRun = 8 * time.Second

// Run is a line of what a handler writes down.
type Run struct {
	Phase   string `json:"phase"` // start, end, overlap, leak
	EventID int64  `json:"event_id"`
	Route   string `json:"route"`
	Attempt int64  `json:"attempt"`
	SHA256  string `json:"sha256,omitempty"` // of stdin
	Exit    int    `json:"exit"`
	PID     int    `json:"pid"`
	At      int64  `json:"at"` // Unix milliseconds
}

// Handle is a handler: the program that calls it exits with what it returns.
func Handle(ctx context.Context, stdin io.Reader) int {
	r, out, err := newRun()
	if err != nil {
		return 100
	}
	lock, held := holdJob(out, r)
	if !held {
		r.write(out, "overlap")
	}
	defer func() { _ = lock.Close() }()
	body, err := io.ReadAll(stdin)
	if err != nil {
		return 1
	}
	r.SHA256 = digest(body)
	if leaked() {
		r.write(out, "leak")
	}
	r.write(out, "start")
	r.Exit = r.work(ctx, lock)
	r.write(out, "end")
	return r.Exit
}

// newRun reads what the handler was told.
func newRun() (r Run, out string, err error) {
	event, err1 := strconv.ParseInt(os.Getenv("ORCHESTRATE_EVENT_ID"), 10, 64)
	attempt, err2 := strconv.ParseInt(os.Getenv("ORCHESTRATE_ATTEMPT"), 10, 64)
	out = os.Getenv(OutVariable)
	return Run{EventID: event, Route: os.Getenv("ORCHESTRATE_ROUTE"), Attempt: attempt, PID: os.Getpid()}, out, errors.Join(err1, err2)
}

// holdJob takes a lock that this process and all it starts hold for as long as
// they live, so that two at once for one job are found out.
func holdJob(out string, r Run) (*os.File, bool) {
	f, err := os.OpenFile(filepath.Join(out, fmt.Sprintf("%d.%s.lock", r.EventID, r.Route)), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // below a directory of ours
	if err != nil {
		return nil, false
	}
	return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// leaked tells whether the secret is in this process' environment or arguments.
func leaked() bool {
	return strings.Contains(strings.Join(append(os.Environ(), os.Args...), "\n"), Secret)
}

// write appends one line; a line of this size is written whole.
func (r Run) write(out, phase string) {
	r.Phase, r.At = phase, queue.Clock().UnixMilli()
	line, err := json.Marshal(r)
	if err != nil {
		return
	}
	f, err := os.OpenFile(runsFile(out), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.Write(append(line, '\n')) // what is missing is found out
	_ = f.Close()
}

// Append writes a line down for a handler that is not Handle.
func (r Run) Append(phase string) {
	r.write(os.Getenv(OutVariable), phase)
}

func runsFile(out string) string { return filepath.Join(out, "runs.ndjson") }

// dice is the same whenever an attempt is run again.
func (r Run) dice() int {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %d", r.EventID, r.Route, r.Attempt))
	return int(sum[0])<<8 | int(sum[1])
}

func (r Run) work(ctx context.Context, lock *os.File) int {
	switch dice := r.dice(); r.Route {
	case "flaky":
		switch {
		case dice%100 < 5:
			return 100 // permanent
		case dice%100 < 15:
			return 75 // unavailable
		case dice%100 < 50:
			return 1
		}
	case "slow":
		Pause(ctx, time.Duration(dice%300)*time.Millisecond)
	case "dead":
		return 100
	case "long":
		Pause(ctx, LongRun)
	case "family": // leaves a child, which must not outlive the attempt
		child := exec.CommandContext(ctx, "sleep", "60")
		child.ExtraFiles = []*os.File{lock}
		if child.Start() != nil {
			return 1
		}
		Pause(ctx, time.Duration(dice%50)*time.Millisecond)
	}
	return 0
}

// Runs reads what the handlers wrote down.
func Runs(out string) ([]Run, error) {
	text, err := os.ReadFile(runsFile(out))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var runs []Run
	for line := range bytes.Lines(text) {
		var r Run
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		runs = append(runs, r)
	}
	return runs, nil
}
