// Package route compiles the rules of a configuration and tells which events
// they want.
//
// A rule is a list of predicates, and all must hold. Match and Explain walk the
// same list, so that what an operator is told can't differ from what is done.
// Match runs in the intake of every delivery: it allocates nothing and reads the
// summary of the event, never its body.
package route

import (
	"fmt"
	"slices"
	"strings"

	"orchestrate/internal/queue"
)

// Spec is a rule as it is configured.
type Spec struct {
	On     []string // "*", "event" or "event.action", as GitHub names them; one must fit
	Filter Filter
}

// Filter narrows a rule. Its keys are ANDed, the values of a key ORed; a key
// that is nil lets everything through. An event that lacks what a key looks at
// is no match.
type Filter struct {
	// Repository holds globs over "owner/name", compared without case, as
	// GitHub does: * stands for any run of characters but the slash, ** for any
	// run, ? for one character but the slash. There are no sets and no braces:
	// the list is the alternative.
	Repository []string
}

// Matcher is a compiled rule. Safe for concurrent use.
type Matcher struct {
	predicates []predicate
}

// predicate is one condition. A field of Filter becomes one of these.
type predicate struct {
	name   string // the key of the configuration
	wanted []string
	actual func(*queue.Event) string
	holds  func(*queue.Event) bool
}

// Compile checks a rule. An error names the value that can't be used.
func Compile(s Spec) (*Matcher, error) {
	on, err := compileOn(s.On)
	if err != nil {
		return nil, err
	}
	m := &Matcher{predicates: []predicate{on}}
	if s.Filter.Repository != nil {
		p, err := compileRepository(s.Filter.Repository)
		if err != nil {
			return nil, err
		}
		m.predicates = append(m.predicates, p)
	}
	return m, nil
}

// Match implements queue.Matcher.
func (m *Matcher) Match(e *queue.Event, _ *queue.Payload) (bool, error) {
	for i := range m.predicates {
		if !m.predicates[i].holds(e) {
			return false, nil
		}
	}
	return true, nil
}

// Predicate is one condition of a rule, and what became of it.
type Predicate struct {
	Name   string   `json:"name"`   // the key of the configuration
	Wanted []string `json:"wanted"` // one of these
	Actual string   `json:"actual"` // empty where the event has none
	Held   bool     `json:"held"`
}

// Explain tells of each condition whether the event meets it. All are told,
// those behind the first that does not hold, too.
func (m *Matcher) Explain(e *queue.Event, _ *queue.Payload) []Predicate {
	told := make([]Predicate, len(m.predicates))
	for i, p := range m.predicates {
		told[i] = Predicate{Name: p.name, Wanted: slices.Clone(p.wanted), Actual: p.actual(e), Held: p.holds(e)}
	}
	return told
}

// kind is what an item of "on" asks for.
type kind struct {
	event, action string // empty: any
}

func compileOn(items []string) (predicate, error) {
	if len(items) == 0 {
		return predicate{}, fmt.Errorf(`on: empty; name events, as in "push" or "pull_request.opened", or "*" for all`)
	}
	kinds := make([]kind, len(items))
	for i, item := range items {
		if item == "*" {
			continue
		}
		event, action, dotted := strings.Cut(item, ".")
		if !isName(event) || dotted && !isName(action) {
			return predicate{}, fmt.Errorf(`on: %q is no event: want "event" or "event.action" in the letters a-z, 0-9 and _, or "*" for all`, item)
		}
		kinds[i] = kind{event, action}
	}
	return predicate{
		name: "on", wanted: slices.Clone(items),
		actual: (*queue.Event).Kind,
		holds:  func(e *queue.Event) bool { return anyKind(kinds, e) },
	}, nil
}

func anyKind(kinds []kind, e *queue.Event) bool {
	for _, k := range kinds {
		if (k.event == "" || k.event == e.EventType) && (k.action == "" || k.action == string(e.Action)) {
			return true
		}
	}
	return false
}

// isName tells whether s is spelt like an event or an action of GitHub's.
func isName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != ""
}

func compileRepository(patterns []string) (predicate, error) {
	const key = "filter.repository"
	if len(patterns) == 0 {
		return predicate{}, fmt.Errorf(`%s: empty, so that nothing could match; name patterns, as in "acme/*", or leave it out`, key)
	}
	globs := make([]glob, len(patterns))
	for i, p := range patterns {
		g, err := compileGlob(p)
		if err != nil {
			return predicate{}, fmt.Errorf("%s: %w", key, err)
		}
		globs[i] = g
	}
	return predicate{
		name: key, wanted: slices.Clone(patterns),
		actual: func(e *queue.Event) string { return string(e.Repository) },
		holds:  func(e *queue.Event) bool { return e.Repository != "" && anyGlob(globs, string(e.Repository)) },
	}, nil
}
