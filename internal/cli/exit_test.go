package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

func TestExitCodeOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{usagef("unknown flag"), 2},
		{queue.ErrInvalid, 2},
		{queue.ErrAmbiguous, 2},
		{queue.ErrUnknownRoute, 2},
		{partly(t.Context(), "requeued 3", queue.ErrUnavailable), 3},
		{queue.ErrNotFound, 4},
		{queue.ErrRefused, 5},
		{queue.ErrUnavailable, 6},
		{queue.ErrBusy, 6},
		{queue.ErrBroken, 6},
		{queue.ErrSchema, 7},
		{errInternal, 70},
		{config.ErrInvalid, 78},
		{signalError{os.Interrupt}, 130},
		{signalError{syscall.SIGTERM}, 143},
	} {
		for _, err := range []error{tt.err, fmt.Errorf("wrapped: %w", tt.err)} {
			if tt.err == nil {
				err = nil
			}
			if got := exitCodeOf(err); got != tt.want {
				t.Errorf("exitCodeOf(%v) = %d, want %d", err, got, tt.want)
			}
		}
	}
}

func TestExitCodesAreInOrder(t *testing.T) {
	last := -1
	for _, e := range exits() {
		if e.code <= last || e.meaning == "" {
			t.Errorf("line %d %q: want a larger code than %d, and a meaning", e.code, e.meaning, last)
		}
		last = e.code
	}
}

func TestWantsJSON(t *testing.T) {
	for _, tt := range []struct {
		args string
		want bool
	}{
		{"events list", false},
		{"events list --bogus -o json", true},
		{"events list -o table", false},
		{"-ojson events", true},
		{"--output ndjson", true},
		{"--output=json", true},
		{"events list --json", true},
		{"events send json", false},
		{"events show -- --json", false},
	} {
		if got := wantsJSON(strings.Fields(tt.args)); got != tt.want {
			t.Errorf("wantsJSON(%q) = %v, want %v", tt.args, got, tt.want)
		}
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestLostOutputIsAnError(t *testing.T) {
	var stderr bytes.Buffer
	a := &App{In: strings.NewReader(""), Out: bufio.NewWriter(full{}), Err: &stderr, Getenv: os.Getenv}
	code := a.Run(t.Context(), []string{"version"})
	if want := "write to standard output: no space left on device"; code != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("exit code %d and %q, want 1 and %q", code, stderr.String(), want)
	}
}

func TestPanicIsInternalError(t *testing.T) {
	f := newFixture(t, 1, "deploy")
	var stderr bytes.Buffer
	a := &App{In: strings.NewReader(""), Out: bufio.NewWriter(io.Discard), Err: &stderr, OutTTY: true} // no Getenv: colours panic
	code := a.Run(t.Context(), []string{"events", "list", "--config", f.path("config.yaml"), "--database", f.path("orchestrate.db")})
	if code != 70 || !strings.Contains(stderr.String(), "orchestrate: internal error: ") || !strings.Contains(stderr.String(), "color.go") {
		t.Errorf("exit code %d and %q, want 70 and where it happened", code, stderr.String())
	}
}

func TestInterruptedCommand(t *testing.T) {
	f := newFixture(t, 1, "deploy")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(signalError{syscall.SIGTERM})
	f.runContext(ctx, "events", "list").want(t, 143, "", "stopped by signal: terminated")
	f.runContext(ctx, "process").want(t, 0, "", "")
}

func TestBlockedInputIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	a := &App{In: r}
	failed := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(a.input(ctx))
		failed <- err
	}()
	cancel(signalError{os.Interrupt})
	if err := <-failed; exitCodeOf(err) != 130 {
		t.Errorf("read ended with %v, want the signal", err)
	}
}
