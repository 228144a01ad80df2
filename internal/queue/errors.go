package queue

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// What can go wrong, for errors.Is. The command line maps these to exit codes
// and the server to HTTP codes, each in one table.
var (
	ErrNotFound     = errors.New("not found")
	ErrAmbiguous    = errors.New("ambiguous")
	ErrRefused      = errors.New("refused")                     // the state does not allow it
	ErrInvalid      = errors.New("invalid")                     // a value that can't be used
	ErrUnavailable  = errors.New("database unavailable")        // away, locked, full, unreadable; may come back
	ErrBusy         = errors.New("too much waits for the disk") // the writer's queue is full
	ErrBroken       = errors.New("the disk failed to sync; look at it and at the log of the kernel, then start again")
	ErrDamaged      = errors.New("the database is damaged")       // a page, or the log: restore a backup
	ErrSchema       = errors.New("schema version does not match") // older or newer than this program
	ErrStale        = errors.New("claim is stale")                // another claim, or a verb, was first
	ErrLeaseLost    = errors.New("lease lost")                    // the worker's row is gone
	ErrUnknownRoute = errors.New("unknown route")
)

// isBroken tells whether a store can't be used again by this process.
func isBroken(err error) bool { return errors.Is(err, ErrBroken) || errors.Is(err, ErrDamaged) }

// UnknownRoute is ErrUnknownRoute with the name and those there are; where says
// what has them.
func UnknownRoute(name, where string, have []string) error {
	routes := strings.Join(have, ", ")
	if len(have) == 0 {
		routes = "no routes"
	}
	return fmt.Errorf("%w %q: %s %s", ErrUnknownRoute, name, where, routes)
}

// ErrStopped is the cause of a context that a worker ends because it was told
// to stop. A handler that returns it has not failed.
var ErrStopped = errors.New("stopped")

// PermanentError is a failure that no retry can mend.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// Permanent marks an error as one that no retry can mend.
func Permanent(format string, args ...any) error {
	return &PermanentError{fmt.Errorf(format, args...)}
}

// UnavailableError says that what the handler needs is away for now.
type UnavailableError struct {
	Err        error
	RetryAfter time.Duration // what the other side asked for; 0 if nothing
}

func (e *UnavailableError) Error() string { return e.Err.Error() }
func (e *UnavailableError) Unwrap() error { return e.Err }

// FieldError says which field of a specification can't be used. Line and Column
// count from 1 in the field's text, where that has a grammar of its own; 0 means
// all of it.
type FieldError struct {
	Field        string // as the configuration names it: filter.labels[0]
	Line, Column int
	Err          error
}

func (e *FieldError) Error() string {
	if e.Line == 0 {
		return e.Field + ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s: %d:%d: %s", e.Field, e.Line, e.Column, e.Err)
}

func (e *FieldError) Unwrap() error { return e.Err }
