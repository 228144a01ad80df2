package handler

import (
	"errors"
	"fmt"
)

// outcome is what an exit status means; the zero value is a failure that is
// tried again.
type outcome int

const (
	failed outcome = iota
	done
	unavailable
	permanent
)

// ExitCodes tells which exit statuses mean what; any other, and an end by a
// signal, is a failure that is tried again. A list that is nil is its default,
// but for codes that another list names; an empty one is empty.
type ExitCodes struct {
	Done        []int // default 0
	Unavailable []int // default 75, EX_TEMPFAIL of sysexits.h
	Permanent   []int // default 100
}

// outcomes checks the lists. Its errors are *queue.FieldError, joined.
func (c ExitCodes) outcomes() (map[int]outcome, error) {
	lists := []struct {
		name     string
		codes    []int
		outcome  outcome
		standard int
	}{
		{"done", c.Done, done, 0},
		{"unavailable", c.Unavailable, unavailable, 75},
		{"permanent", c.Permanent, permanent, 100},
	}
	all, named, errs := map[int]outcome{}, map[int]string{}, []error(nil)
	for _, l := range lists {
		for i, code := range l.codes {
			field := fmt.Sprintf("run.exit_codes.%s[%d]", l.name, i)
			switch {
			case code < 0 || code > 255:
				errs = append(errs, invalid(field, "%d: an exit status is between 0 and 255", code))
			case named[code] != "":
				errs = append(errs, invalid(field, "%d is in %s already; a status has one meaning", code, named[code]))
			default:
				all[code], named[code] = l.outcome, l.name
			}
		}
	}
	for _, l := range lists {
		if l.codes == nil && named[l.standard] == "" {
			all[l.standard] = l.outcome
		}
	}
	return all, errors.Join(errs...)
}
