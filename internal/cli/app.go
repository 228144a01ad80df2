// Package cli is the command line: each command parses what it was given,
// calls the service once, and prints. It also wires the parts of the program
// together, as the only package that sees all of them.
//
// A command is one file: a struct of options, a constructor that makes the
// cobra command, and a run function. What commands share hangs on App, and is
// opened when the first of them asks for it, so that version, help and
// completion open nothing.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"orchestrate/internal/handler"
	"orchestrate/internal/queue"
)

// App is what every command has: the three streams, the environment, the
// global flags.
type App struct {
	Version string
	In      io.Reader
	Out     *bufio.Writer // data only; flushed and checked when the command ends
	Err     io.Writer     // everything else
	Getenv  func(string) string

	InTTY, OutTTY, ErrTTY bool
	Width                 int // columns of the terminal on Out; 0: not known

	asked     outputFormat // what -o says
	output    outputFormat // what it comes to; wide is a table
	wide      bool
	jqText    string
	jq        *jqFilter // nil: none
	noHeaders bool
	color     colorMode
	times     timeMode // empty: by the terminal
	quiet     bool
	verbose   bool
	noInput   bool
	config    string
	timeout   time.Duration

	flags    *pflag.FlagSet          // of the command that runs
	wired    *wired                  // the configuration, once it is loaded
	store    queue.Store             // once it is open
	commands handler.Running         // what routes have running
	live     bool                    // deliveries are to come in: the secrets of sources must be there
	runs     func(route string) bool // of which the secrets and directories must be there, as they are to run; nil: none
	daemon   bool                    // serve or process: logs as configured, creates the database, drains on a signal

	hangups      chan struct{} // what daemons are asked to reload by
	reloadable   atomic.Bool   // a hang-up is no end
	notifyHangup func()        // has the system tell of hang-ups, also under nohup
}

// defaultTimeout is how long a command waits for the database.
const defaultTimeout = 10 * time.Second

// Process is what the program gets from the system.
type Process struct {
	Version      string // of the build; empty: what Go recorded
	Args         []string
	In, Out, Err *os.File
}

// Main runs the program for the process that calls it and returns its exit
// code. The first SIGINT or SIGTERM ends the command's context, the second one
// ends the wait for it and what it has running. SIGHUP does so, too, but for
// daemons.
func Main(p Process) int {
	a := &App{
		Version: p.Version, In: p.In, Out: bufio.NewWriter(p.Out), Err: p.Err, Getenv: os.Getenv,
		InTTY: isTerminal(p.In), OutTTY: isTerminal(p.Out), ErrTTY: isTerminal(p.Err),
	}
	if w, _, err := term.GetSize(int(p.Out.Fd())); err == nil {
		a.Width = w
	}
	// Asked for, SIGPIPE does not kill: a closed pipe is an error of the write,
	// which is told, and no reader of logs can end a daemon by going away. It
	// is not ignored, since handlers would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals, hangups := make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	a.hangups = make(chan struct{}, 1)
	a.notifyHangup = func() { signal.Notify(hangups, syscall.SIGHUP) }
	if !signal.Ignored(syscall.SIGHUP) { // the terminal is gone; nohup asks not to care
		a.notifyHangup()
	}

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	done := make(chan int, 1)
	go func() { done <- a.Run(ctx, p.Args) }()
	for stopping := false; ; {
		var s os.Signal
		select {
		case code := <-done:
			return code
		case s = <-signals:
		case s = <-hangups:
			if a.reloadable.Load() {
				a.askReload()
				continue
			}
		}
		if stopping {
			a.commands.Kill()
			return exitCodeOf(signalError{s})
		}
		stopping = true
		cancel(signalError{s})
	}
}

// askReload leaves one wish: a reload that has not begun will see what is there
// then.
func (a *App) askReload() {
	select {
	case a.hangups <- struct{}{}:
	default:
	}
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// now is the time by the clock of the database, where one is open.
func (a *App) now() queue.Time {
	if a.store != nil {
		return a.store.Now()
	}
	return queue.Now()
}

// Run executes one command line and returns the exit code. Panics become
// exit code 70.
func (a *App) Run(ctx context.Context, args []string) (code int) {
	defer func() {
		if v := recover(); v != nil {
			code = a.report(fmt.Errorf("%w: %v", errInternal, v), wantsJSON(args))
			fmt.Fprintf(a.Err, "%s\n", debug.Stack())
		}
	}()
	root := newRootCmd(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil {
		err = a.stopped(ctx, err)
	}
	if a.store != nil {
		err = errors.Join(err, a.store.Close())
	}
	if flushErr := a.Out.Flush(); flushErr != nil && !errors.Is(err, flushErr) {
		err = errors.Join(err, fmt.Errorf("write to standard output: %w", flushErr))
	}
	if err != nil {
		return a.report(err, wantsJSON(args))
	}
	return 0
}

// stopped is what an error means after a signal. A daemon that was told to stop
// while it started has nothing to drain; what failed in any other command was
// broken off.
func (a *App) stopped(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, errPartly):
		return err
	case !a.daemon:
		return context.Cause(ctx)
	case errors.Is(err, context.Canceled), errors.Is(err, context.Cause(ctx)):
		return nil
	}
	return err
}

// signalError is the cause of a context that a signal ended.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return "stopped by signal: " + e.String() }

// interactive tells whether there is somebody to ask.
func (a *App) interactive() bool { return a.InTTY && a.ErrTTY && !a.noInput }

// note says something on stderr that is not data, after the data so far.
func (a *App) note(format string, args ...any) {
	if !a.quiet {
		a.say(format+"\n", args...)
	}
}

// hint is a note that only helps somebody who sits before it.
func (a *App) hint(format string, args ...any) {
	if a.ErrTTY && a.output == formatTable {
		a.note(format, args...)
	}
}

// say writes to stderr, with what stdout holds before it. A lost message on
// stderr has nowhere to be told; a lost flush is told at the end.
func (a *App) say(format string, args ...any) {
	_ = a.Out.Flush()
	_, _ = fmt.Fprintf(a.Err, format, args...)
}

// input is stdin for a command that ctx ends: a read that blocks is given up,
// and its goroutine ends with the process.
func (a *App) input(ctx context.Context) io.Reader { return &interruptible{ctx, a.In} }

type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		buf := make([]byte, len(p))
		n, err := i.r.Read(buf)
		read <- result{buf[:n], err}
	}()
	select {
	case r := <-read:
		return copy(p, r.data), r.err
	case <-i.ctx.Done():
		return 0, context.Cause(i.ctx)
	}
}

// printable is text from outside made fit for a terminal; absent is "-".
func printable[T ~string](s T) string {
	if p := queue.Printable(string(s)); p != "" {
		return p
	}
	return "-"
}
