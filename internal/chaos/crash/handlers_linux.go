package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"orchestrate/internal/chaos"
)

// misbehaviour is a command that does what it should not.
type misbehaviour struct {
	name    string
	script  string // for sh; empty: command
	command string // as YAML
	dir     string
	outcome string
	says    string        // in the message
	timeout time.Duration // 0: handlerTimeout
}

// The bounds of a command that misbehaves: it must have ended within the two and
// a second more.
const (
	handlerTimeout = time.Second
	handlerGrace   = 500 * time.Millisecond
)

var misbehaviours = []misbehaviour{
	{name: "hangs", script: `exec sleep 1000`, outcome: "dead_letter", says: "timed out after 1s"},
	{name: "ignores-term", script: `trap "" TERM; while :; do sleep 1; done`, outcome: "dead_letter", says: "timed out after 1s"},
	{name: "forks", script: `f() { test $1 -gt 0 || exec sleep 1000; f $(($1 - 1)) & f $(($1 - 1)) & wait; }; f 7`, outcome: "dead_letter", says: "timed out"},
	{name: "bomb", command: `[setpriv, --reuid, "64999", --clear-groups, prlimit, "--nproc=100", sh, -c, "b() { b | b & }; b; sleep 1000"]`, outcome: "dead_letter", says: "timed out"},
	{name: "leaves-a-session", script: `setsid sleep 1000 & exit 0`, outcome: "completed"},
	{name: "leaves-a-child", script: `nohup sleep 1000 >/dev/null 2>&1 & exit 0`, outcome: "completed"},
	{name: "talks", script: `head -c 1000000000 /dev/zero`, timeout: time.Minute, outcome: "completed"},
	{name: "talks-and-fails", script: `yes | head -c 200000000; exit 7`, timeout: time.Minute, outcome: "dead_letter", says: "exit 7"},
	{name: "crashes", script: `kill -SEGV $$`, outcome: "dead_letter", says: "signal: segmentation fault"},
	{name: "kills-itself", script: `kill -KILL $$`, outcome: "dead_letter", says: "signal: killed"},
	{name: "closes-stdin", script: `exec <&-; exit 3`, outcome: "dead_letter", says: "exit 3"},
	{name: "is-stopped", script: `kill -STOP $$`, outcome: "dead_letter", says: "timed out"},
	{name: "lost-directory", script: `exit 0`, dir: "gone", outcome: "dead_letter", says: "no such file or directory"},
	{name: "missing", command: `["/no/such/program"]`, outcome: "dead_letter", says: "no such file or directory"},
}

// handlers has one worker run every kind of command that misbehaves, at the same
// time, and looks at what it recorded, what is left of them, and what it holds.
func (h *harness) handlers(ctx context.Context) (err error) {
	s, err := h.site("handlers", h.bin, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	gone := filepath.Join(s.Dir, "gone")
	if err := errors.Join(os.Mkdir(gone, 0o700), s.Configure(handlerRoutes(gone, s.Out))); err != nil {
		return err
	}
	n, err := s.Start("serve", "serve", "--concurrency", fmt.Sprint(len(misbehaviours)), "--batch-size", fmt.Sprint(len(misbehaviours)))
	if err != nil {
		return err
	}
	if _, err := s.AwaitReady(ctx, n, 30*time.Second); err != nil {
		return err
	}
	if err := os.Remove(gone); err != nil {
		return err
	}
	d := &drill{Site: s, out: h, ledger: chaos.NewLedger(), serve: n}
	for i := range misbehaviours { // as many, well-behaved, to compare with
		if err := d.post(ctx, fmt.Sprint("calm-", i), "push"); err != nil {
			return err
		}
	}
	if err := d.rest(ctx, time.Minute); err != nil {
		return err
	}
	calm := d.look(n)["memory at most, KiB"]
	if err := d.postBody(ctx, "misbehave", "gollum", fmt.Appendf(nil, "{\"pad\": %q}", strings.Repeat("x", 100_000))); err != nil {
		return err
	}
	if err := d.rest(ctx, time.Minute); err != nil {
		return err
	}
	left, zombies := chaos.Survivors(s.Out), chaos.Zombies(n.PID())
	most := d.look(n)["memory at most, KiB"]
	attempts, err := chaos.Attempts(ctx, s.Database)
	if err != nil {
		return err
	}
	err = h.judgeHandlers(attempts, left, zombies, most-calm)
	_, stop := n.Stop(20 * time.Second)
	return errors.Join(err, stop)
}

func handlerRoutes(gone, out string) string {
	text := "retry: {max: 0}\nroutes:\n  - {name: calm, on: [push], run: {command: [\"true\"]}}\n"
	for _, m := range misbehaviours {
		command := m.command
		if command == "" {
			command = fmt.Sprintf("[sh, -c, %q]", m.script)
		}
		dir := ""
		if m.dir != "" {
			dir = fmt.Sprintf("dir: %q, ", gone)
		}
		text += fmt.Sprintf("  - name: %s\n    on: [gollum]\n    run: {command: %s, %senv: {%s: %q}, timeout: %s, grace: %s}\n",
			m.name, command, dir, chaos.OutVariable, out, cmp.Or(m.timeout, handlerTimeout), handlerGrace)
	}
	return text
}

// handlerMemory is what a worker may take for the output of all of them, in KiB.
const handlerMemory = 10 << 10

func (h *harness) judgeHandlers(attempts map[string]chaos.Attempt, left, zombies []string, memory int64) error {
	t := tabwriter.NewWriter(h.out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "COMMAND\tOUTCOME\tTOOK\tOUTPUT\tERROR")
	// What a command takes that can't even be started is the machine's, not ours.
	machine := attempts["missing"].Took
	var errs []error
	for _, m := range misbehaviours {
		a := attempts[m.name]
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", m.name, a.Outcome, a.Took, a.Output, a.Error)
		switch {
		case a.Outcome != m.outcome || !strings.Contains(a.Error, m.says):
			errs = append(errs, fmt.Errorf("%s ended as %s: %q; want %s, %q", m.name, a.Outcome, a.Error, m.outcome, m.says))
		case m.timeout == 0 && a.Took > handlerTimeout+handlerGrace+time.Second+machine:
			errs = append(errs, fmt.Errorf("%s took %s", m.name, a.Took))
		case a.Output > 64<<10:
			errs = append(errs, fmt.Errorf("%s: %d bytes of output were kept", m.name, a.Output))
		}
	}
	_ = t.Flush()
	h.say("%d processes and %d zombies are left; the worker took %d KiB more at most", len(left), len(zombies), memory)
	if len(left)+len(zombies) > 0 {
		errs = append(errs, fmt.Errorf("left: %v %v", left, zombies))
	}
	if memory > handlerMemory {
		errs = append(errs, fmt.Errorf("the worker took %d KiB more, %d are the most", memory, handlerMemory))
	}
	return errors.Join(errs...)
}
