// Package handler does what a route asks for, one file a kind of work.
//
// run starts a command. Whatever the command does, the worker survives it and
// the attempt ends: hang, be killed, write without end, read nothing, leave
// children behind.
package handler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
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

	"orchestrate/internal/nearest"
	"orchestrate/internal/queue"
)

// The bounds of a command, where a route sets none.
const (
	DefaultTimeout = 30 * time.Minute
	DefaultGrace   = 10 * time.Second
)

// Run is a command that is started for an event.
type Run struct {
	// Command is the program and its arguments, handed over as they are: there
	// is no shell. A program without a slash is looked for in the PATH of this
	// process, at each attempt. An argument may hold templates of text/template:
	// the dot is the payload, `event` are the facts of the event and the attempt
	// (see facts). A function can't collide with a key of the payload, whatever
	// GitHub adds to it.
	Command          []string
	AllowLeadingDash bool // what a template opens may begin with a dash

	// Stdin is what the command reads: "payload", or nothing, for the payload as
	// JSON; "none"; or a template whose text is read. That keeps what outsiders
	// write off the command line.
	Stdin string

	Dir         string            // where it runs; empty: where this process does
	CheckDir    bool              // refuse a Dir that nothing can run in now
	Env         map[string]string // variables and their values
	PassEnv     []string          // names of variables passed on, where set; nil: defaultPass
	Secrets     []string          // names of variables with secrets of ours, which are refused in PassEnv
	ExitCodes   ExitCodes
	Timeout     time.Duration // then it is ended; 0: DefaultTimeout
	Grace       time.Duration // between TERM and KILL; 0: DefaultGrace
	Running     *Running      // is told of each attempt's process; may be nil
	Containment *Containment  // what ends with an attempt; nil: its process group
}

// defaultPass is what programs need to find others, their settings and a place
// for temporary files, and to write text and times as the machine does. None
// of these tends to hold a secret; PATH alone breaks git and most agents, which
// look for their settings below HOME.
var defaultPass = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"}

type run struct {
	command     []pattern
	input       []pattern // what the command reads, if it is a template
	payload     bool      // it reads the payload
	cwd         string
	env         []string
	codes       map[int]outcome
	timeout     time.Duration
	grace       time.Duration
	work        string // holds a directory for each running attempt
	running     *Running
	containment *Containment
	log         *slog.Logger
}

// NewRun checks a command and compiles its templates. An error is a
// *queue.FieldError, or several that are joined. Each attempt has a directory
// below work, which is made when it is needed and which Sweep looks after.
// Environment variables are read now.
func NewRun(r Run, work string, log *slog.Logger) (Handler, error) {
	h := &run{
		cwd: r.Dir, timeout: cmp.Or(r.Timeout, DefaultTimeout), grace: cmp.Or(r.Grace, DefaultGrace),
		running: r.Running, containment: r.Containment, log: log,
	}
	errs := make([]error, 5, 7)
	h.command, errs[0] = parseCommand(r.Command, r.AllowLeadingDash)
	errs[1] = h.setStdin(r.Stdin)
	errs[2] = checkDir(r.Dir, r.CheckDir)
	h.env, errs[3] = environment(r)
	h.codes, errs[4] = r.ExitCodes.outcomes()
	if r.Timeout < 0 {
		errs = append(errs, invalid("run.timeout", "%s: want more than 0; a command without one could hold its slot for ever", r.Timeout))
	}
	if r.Grace < 0 {
		errs = append(errs, invalid("run.grace", "%s: want more than 0", r.Grace))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var err error
	if h.work, err = filepath.Abs(work); err != nil {
		return nil, fmt.Errorf("directory of attempts: %w", err)
	}
	return h, nil
}

// The words of run.stdin.
const (
	stdinPayload = "payload"
	stdinNone    = "none"
)

func (h *run) setStdin(s string) error {
	switch {
	case s == "" || s == stdinPayload:
		h.payload = true
	case strings.Contains(s, "{{"):
		p := pattern{name: "stdin", text: s, stdin: true}
		err := p.parse("run.stdin")
		h.input = []pattern{p}
		return err
	case s != stdinNone:
		hint := "want payload, none, or a template with {{ }}"
		if meant, ok := nearest.Word(s, []string{stdinNone, stdinPayload}); ok {
			hint = "did you mean " + meant + "?"
		}
		return invalid("run.stdin", "%q is neither a word for it nor a template; %s", queue.Cut(s, maxLine/4), hint)
	}
	return nil
}

// checkDir looks at the directory itself only where this process is to run
// commands: an operator's other commands may run elsewhere.
func checkDir(dir string, look bool) error {
	if strings.ContainsRune(dir, 0) {
		return invalid("run.dir", "%q holds a NUL byte", dir)
	}
	if dir == "" || !look {
		return nil
	}
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return invalid("run.dir", "%s is not there; create it, or name another", dir)
	case err != nil:
		return invalid("run.dir", "%w", err)
	case !st.IsDir():
		return invalid("run.dir", "%s is no directory; name the one that the command is to run in", dir)
	}
	if err := mayEnter(dir); err != nil {
		return invalid("run.dir", "%s can't be entered by the user who runs this: %w", dir, err)
	}
	return nil
}

// environment is what every attempt of the route gets.
func environment(r Run) ([]string, error) {
	pass := r.PassEnv
	if pass == nil {
		pass = defaultPass
	}
	vars, errs := map[string]string{}, []error(nil)
	for i, name := range pass {
		if err := checkName(name, r.Secrets); err != nil {
			errs = append(errs, invalid("run.pass_env["+strconv.Itoa(i)+"]", "%q: %w", name, err))
		}
		if value, ok := os.LookupEnv(name); ok {
			vars[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		err := checkName(name, nil)
		if err == nil && strings.ContainsRune(r.Env[name], 0) {
			err = errors.New("its value holds a NUL byte")
		}
		if err != nil {
			errs = append(errs, invalid("run.env."+key(name), "%w", err))
		}
		vars[name] = r.Env[name]
	}
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env, errors.Join(errs...)
}

// checkName refuses names that can't be, names that are ours, and names that
// would hand our secrets to a command.
func checkName(name string, secrets []string) error {
	switch upper := strings.ToUpper(name); {
	case name == "" || strings.ContainsAny(name, "=\x00"):
		return errors.New("no name of a variable")
	case upper == "GITHUB_WEBHOOK_SECRET" || slices.Contains(secrets, name):
		return errors.New("holds a secret of this program, which no command gets; remove it")
	case strings.HasPrefix(upper, "ORCHESTRATE_"):
		return errors.New("names that start with ORCHESTRATE_ are set by this program; choose another")
	}
	return nil
}

// order is what an event makes of the templates.
type order struct {
	payload []byte
	argv    []string
	input   []string // at most one
}

// order has permanent errors only.
func (h *run) order(t *queue.Task) (o order, err error) {
	if o.payload, err = t.Payload.JSON(); err != nil {
		return o, queue.Permanent("payload: %w", err)
	}
	texts, err := render(slices.Concat(h.command, h.input), t, o.payload)
	if err != nil {
		return o, err
	}
	o.argv, o.input = texts[:len(h.command)], texts[len(h.command):]
	return o, nil
}

// Preview implements Handler. Of standard input it shows what a template makes,
// else the word for it.
func (h *run) Preview(t *queue.Task) (Preview, error) {
	o, err := h.order(t)
	if err != nil {
		return Preview{}, err
	}
	p := &RunPreview{Command: o.argv, Dir: queue.Text(h.cwd), Stdin: stdinNone}
	switch {
	case h.payload:
		p.Stdin = stdinPayload
	case len(o.input) > 0:
		p.Stdin = o.input[0]
	}
	for _, v := range append(slices.Clip(h.env), variables(t, "")...) {
		name, _, _ := strings.Cut(v, "=")
		p.Env = append(p.Env, name)
	}
	slices.Sort(p.Env)
	return Preview{Run: p}, nil
}

// Handle implements queue.Handler: one attempt, from the payload to the verdict.
func (h *run) Handle(ctx context.Context, t *queue.Task) (queue.Result, error) {
	if ctx.Err() != nil {
		return queue.Result{}, context.Cause(ctx)
	}
	o, err := h.order(t)
	if err != nil {
		return queue.Result{}, err
	}
	dir, err := newAttemptDir(h.work, o.payload)
	if err != nil {
		// A full disk or too many open files is not the event's fault.
		return queue.Result{}, &queue.UnavailableError{Err: fmt.Errorf("payload file: %w", err)}
	}
	defer h.remove(ctx, dir, t)
	stdin, err := h.stdin(dir, o)
	if err != nil {
		return queue.Result{}, &queue.UnavailableError{Err: fmt.Errorf("standard input: %w", err)}
	}
	defer func() { _ = stdin.Close() }() // only read, and by the child
	if err := h.containment.contain(dir); err != nil {
		h.uncontained(ctx, err)
	}
	p, err := h.start(ctx, o.argv, stdin, t, dir)
	if err != nil {
		return queue.Result{}, h.startError(o.argv[0], err)
	}
	p.running = h.running
	h.running.add(p)
	return h.verdict(ctx, p, p.watch(ctx, h.timeout, h.grace))
}

// remove leaves to Sweep what can't be removed: the outcome of the attempt
// stands.
func (h *run) remove(ctx context.Context, dir *attemptDir, t *queue.Task) {
	if err := dir.remove(queue.Clock().Add(cgroupDelay)); err != nil {
		h.log.WarnContext(ctx, "attempt directory left behind", "event_id", t.Event.ID, "route", t.Route,
			"attempt", t.Attempt, "error", err.Error())
	}
}

// stdin opens what the command reads: a file, since a pipe would need a writer
// that is stuck for as long as nobody reads.
func (h *run) stdin(dir *attemptDir, o order) (*os.File, error) {
	path := os.DevNull
	switch {
	case h.payload:
		path = dir.payload()
	case len(o.input) > 0:
		path = dir.stdin()
		if err := os.WriteFile(path, []byte(o.input[0]), 0o600); err != nil {
			return nil, err
		}
	}
	return os.Open(path) //nolint:gosec // a path of ours
}

// start starts the command, without a cgroup where the kernel refuses it that:
// that the program is at fault shows when it fails again.
func (h *run) start(ctx context.Context, argv []string, stdin *os.File, t *queue.Task, dir *attemptDir) (*process, error) {
	cmd := func() *exec.Cmd {
		c := exec.Command(argv[0], argv[1:]...) //nolint:gosec,noctx // the configuration names it; a context would kill the leader alone
		c.Dir, c.Stdin = h.cwd, stdin
		c.Env = append(slices.Clip(h.env), variables(t, dir.payload())...)
		return c
	}
	p, err := start(cmd(), dir.cgroup)
	if err == nil || dir.cgroup == "" {
		return p, err
	}
	p, again := start(cmd(), "")
	if again == nil {
		h.uncontained(ctx, err)
	}
	return p, again
}

// uncontained tells, once in a while, that the process group has to do.
func (h *run) uncontained(ctx context.Context, err error) {
	if h.containment.complain() {
		h.log.WarnContext(ctx, "no cgroup for an attempt: what leaves its process group can outlive it", "error", err.Error())
	}
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
func (h *run) verdict(ctx context.Context, p *process, why error) (queue.Result, error) {
	state := p.cmd.ProcessState
	res := queue.Result{Output: p.output.bytes()}
	says := failed
	if code := state.ExitCode(); code >= 0 {
		res.ExitCode = &code
		says = h.codes[code]
	}
	if says == done && !p.asked {
		return res, nil // a KILL that came too late changes nothing
	}
	if why == nil {
		why = context.Cause(ctx) // a service manager may have ended the command together with us
	}
	line := lastLine(res.Output)
	if why != nil {
		return res, because(why, line) // it did not end by itself, whatever its status says
	}
	switch err := because(ended(state), line); says {
	case unavailable:
		return res, &queue.UnavailableError{Err: err}
	case permanent:
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
