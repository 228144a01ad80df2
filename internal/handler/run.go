// Package handler does what a route asks for, one file a kind of work.
//
// run starts a command. Whatever the command does, the worker survives it and
// the attempt ends: hang, be killed, write without end, read nothing, leave
// children behind.
package handler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"orchestrate/internal/queue"
)

// The bounds of a command, where a route sets none.
const (
	DefaultTimeout = 30 * time.Minute
	DefaultGrace   = 10 * time.Second
)

// The exit statuses that say more than done or not. 75 is EX_TEMPFAIL of
// sysexits.h.
const (
	exitUnavailable = 75
	exitPermanent   = 100
)

// Run is a command that is started for an event.
type Run struct {
	// Command is the program and its arguments, handed over as they are: there
	// is no shell. A program without a slash is looked for in the PATH of this
	// process, at each attempt. An argument may hold templates of text/template:
	// the dot is the payload, `event` are the facts of the event and the attempt
	// (see facts). A function can't collide with a key of the payload, whatever
	// GitHub adds to it.
	Command []string
	Dir     string            // where it runs; empty: where this process does
	Env     map[string]string // variables and their values
	PassEnv []string          // names of variables passed on, where set; nil: defaultPass
	Secrets []string          // names of variables with secrets of ours, which are refused in PassEnv
	Timeout time.Duration     // then it is ended; 0: DefaultTimeout
	Grace   time.Duration     // between TERM and KILL; 0: DefaultGrace
	Running *Running          // is told of each attempt's process; may be nil
}

// defaultPass is what programs need to find others, their settings and a place
// for temporary files, and to write text and times as the machine does. None
// of these tends to hold a secret; PATH alone breaks git and most agents, which
// look for their settings below HOME.
var defaultPass = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"}

type run struct {
	command []argument
	cwd     string
	env     []string
	timeout time.Duration
	grace   time.Duration
	work    string // holds a directory for each running attempt
	running *Running
	log     *slog.Logger
}

// NewRun checks a command and compiles its templates; the error names what
// can't be used. Each attempt has a directory below work, which is made when it
// is needed and which Sweep looks after. Environment variables are read now.
func NewRun(r Run, work string, log *slog.Logger) (queue.Handler, error) {
	command, err := parseCommand(r.Command)
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	env, err := environment(r)
	if err != nil {
		return nil, err
	}
	if r.Timeout < 0 {
		return nil, fmt.Errorf("timeout: %s: want more than 0; a command without one could hold its slot for ever", r.Timeout)
	}
	if r.Grace < 0 {
		return nil, fmt.Errorf("grace: %s: want more than 0", r.Grace)
	}
	if strings.ContainsRune(r.Dir, 0) {
		return nil, fmt.Errorf("dir: %q holds a NUL byte", r.Dir)
	}
	if work, err = filepath.Abs(work); err != nil {
		return nil, fmt.Errorf("directory of attempts: %w", err)
	}
	h := &run{command: command, cwd: r.Dir, env: env, timeout: r.Timeout, grace: r.Grace, work: work, running: r.Running, log: log}
	if h.timeout == 0 {
		h.timeout = DefaultTimeout
	}
	if h.grace == 0 {
		h.grace = DefaultGrace
	}
	return h, nil
}

// environment is what every attempt of the route gets.
func environment(r Run) ([]string, error) {
	pass := r.PassEnv
	if pass == nil {
		pass = defaultPass
	}
	vars := map[string]string{}
	for _, name := range pass {
		if err := checkName(name, r.Secrets); err != nil {
			return nil, fmt.Errorf("pass_env: %w", err)
		}
		if value, ok := os.LookupEnv(name); ok {
			vars[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		if err := checkName(name, nil); err != nil {
			return nil, fmt.Errorf("env: %w", err)
		}
		if strings.ContainsRune(r.Env[name], 0) {
			return nil, fmt.Errorf("env: the value of %s holds a NUL byte", name)
		}
		vars[name] = r.Env[name]
	}
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env, nil
}

// checkName refuses names that can't be, names that are ours, and names that
// would hand our secrets to a command.
func checkName(name string, secrets []string) error {
	switch upper := strings.ToUpper(name); {
	case name == "" || strings.ContainsAny(name, "=\x00"):
		return fmt.Errorf("%q is no name of a variable", name)
	case upper == "GITHUB_WEBHOOK_SECRET" || slices.Contains(secrets, name):
		return fmt.Errorf("%s holds a secret of this program, which no command gets; remove it", name)
	case strings.HasPrefix(upper, "ORCHESTRATE_"):
		return fmt.Errorf("%s: names that start with ORCHESTRATE_ are set by this program; choose another", name)
	}
	return nil
}

// Handle implements queue.Handler: one attempt, from the payload to the verdict.
func (h *run) Handle(ctx context.Context, t *queue.Task) (queue.Result, error) {
	if ctx.Err() != nil {
		return queue.Result{}, context.Cause(ctx)
	}
	payload, err := t.Payload.JSON()
	if err != nil {
		return queue.Result{}, queue.Permanent("payload: %w", err)
	}
	argv, err := render(h.command, t, payload)
	if err != nil {
		return queue.Result{}, err
	}
	dir, err := newAttemptDir(h.work, payload)
	if err != nil {
		// A full disk or too many open files is not the event's fault.
		return queue.Result{}, &queue.UnavailableError{Err: fmt.Errorf("payload file: %w", err)}
	}
	defer h.remove(ctx, dir, t)
	p, err := h.start(argv, t, dir)
	if err != nil {
		return queue.Result{}, h.startError(argv[0], err)
	}
	p.running = h.running
	h.running.add(p)
	return verdict(ctx, p, p.watch(ctx, h.timeout, h.grace))
}

// remove leaves to Sweep what can't be removed: the outcome of the attempt
// stands.
func (h *run) remove(ctx context.Context, dir *attemptDir, t *queue.Task) {
	if err := dir.remove(); err != nil {
		h.log.WarnContext(ctx, "attempt directory left behind", "event_id", t.Event.ID, "route", t.Route,
			"attempt", t.Attempt, "error", err.Error())
	}
}

// start starts the command with the payload file as its standard input. A pipe
// would need a writer that is stuck for as long as nobody reads.
func (h *run) start(argv []string, t *queue.Task, dir *attemptDir) (*process, error) {
	stdin, err := os.Open(dir.payload())
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdin.Close() }()      // only read, and by the child
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec,noctx // the configuration names it; a context would kill the leader alone
	cmd.Dir, cmd.Stdin = h.cwd, stdin
	cmd.Env = append(slices.Clip(h.env), variables(t, dir.payload())...)
	return start(cmd)
}

// varPayloadFile also marks the processes of an attempt: see killLeftovers.
const varPayloadFile = "ORCHESTRATE_PAYLOAD_FILE"

func variables(t *queue.Task, payload string) []string {
	return []string{
		"ORCHESTRATE_EVENT_ID=" + strconv.FormatInt(t.Event.ID, 10),
		"ORCHESTRATE_DELIVERY_ID=" + t.Event.DeliveryID,
		"ORCHESTRATE_EVENT=" + t.Event.EventType,
		"ORCHESTRATE_ACTION=" + string(t.Event.Action),
		"ORCHESTRATE_REPOSITORY=" + string(t.Event.Repository),
		"ORCHESTRATE_ROUTE=" + t.Route,
		"ORCHESTRATE_ATTEMPT=" + strconv.FormatInt(t.Attempt, 10),
		"ORCHESTRATE_IDEMPOTENCY_KEY=" + t.Key,
		varPayloadFile + "=" + payload,
	}
}

// startError tells apart what an event, an operator and the machine cause. A
// program that is missing is retried, since a deployment may be replacing it.
func (h *run) startError(program string, err error) error {
	if h.cwd != "" {
		if _, statErr := os.Stat(h.cwd); statErr != nil {
			return fmt.Errorf("dir: %w", statErr) // exec would blame the program
		}
	}
	switch {
	case errors.Is(err, syscall.E2BIG):
		return queue.Permanent("start %s: its arguments and environment are too long together: %w", program, err)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM),
		errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &queue.UnavailableError{Err: fmt.Errorf("start %s: %w", program, err)}
	default:
		return fmt.Errorf("start %s: %w", program, err)
	}
}

// verdict is the outcome of a command that has ended; why tells what made us
// end it, nil if it ended by itself.
func verdict(ctx context.Context, p *process, why error) (queue.Result, error) {
	state := p.cmd.ProcessState
	res := queue.Result{Output: p.output.bytes()}
	if code := state.ExitCode(); code >= 0 {
		res.ExitCode = &code
	}
	if state.Success() && !p.asked {
		return res, nil // a KILL that came too late changes nothing
	}
	if why == nil {
		why = context.Cause(ctx) // a service manager may have ended the command together with us
	}
	line := lastLine(res.Output)
	if why != nil {
		return res, because(why, line) // it did not end by itself, whatever its status says
	}
	switch err := because(ended(state), line); state.ExitCode() {
	case exitUnavailable:
		return res, &queue.UnavailableError{Err: err}
	case exitPermanent:
		return res, &queue.PermanentError{Err: err}
	default:
		return res, err
	}
}

// ended says how a command ended by itself: "exit 1", "signal: killed".
func ended(state *os.ProcessState) error {
	if code := state.ExitCode(); code >= 0 {
		return fmt.Errorf("exit %d", code)
	}
	return errors.New(state.String())
}

func because(err error, line string) error {
	if line == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, line)
}
