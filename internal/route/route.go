// Package route compiles the rules of a configuration and tells which events
// they want.
//
// A rule is a list of predicates: "on", the keys of the filter, "if". All must
// hold, and they are asked in that order, so that a payload is looked into only
// for the rules whose "on" and repository fit, once for all of them. Match and
// Explain walk the same list, so that what an operator is told can't differ from
// what is done.
package route

import (
	"errors"
	"fmt"
	"slices"

	"orchestrate/internal/queue"
)

// Spec is a rule as it is configured.
type Spec struct {
	Name   string
	On     []string // "*", "event" or "event.action", as GitHub names them; one must fit
	Filter Filter
	If     string // a condition in CEL over event and payload; empty: none
}

// Filter narrows a rule. Its keys are ANDed, the values of a key ORed; a key
// that is nil lets everything through. An event that lacks what a key looks at
// is no match. What each type of event has stands in docs/reference/filters.md.
type Filter struct {
	Repository, BaseBranch, Labels, Author, Paths []string // globs
	Conclusion, AuthorAssociation, SenderType     []string // GitHub's words
	SkipForks                                     bool     // changes that may come from another repository are no match
	Draft                                         *bool
}

// RouteError is one thing that is wrong with one rule.
type RouteError struct {
	Index int // of the Spec
	Route string
	Err   *queue.FieldError
}

func (e *RouteError) Error() string { return fmt.Sprintf("route %q: %s", e.Route, e.Err) }
func (e *RouteError) Unwrap() error { return e.Err }

// Warning is something odd that may be meant.
type Warning struct {
	Route string
	Field string // as the configuration names it: on[0]
	Text  string
}

// Table is the compiled rules. It implements queue.Matcher and is safe for
// concurrent use.
type Table struct {
	rules    []rule
	byName   map[string]*rule
	byType   map[string][]*rule // the types that a rule names, with the rules for all types
	forAll   []*rule
	warnings []Warning
}

// rule is a compiled Spec.
type rule struct {
	name    string
	items   []string // of "on"
	kinds   []kind
	filters []filter
	cond    *condition // nil: none
}

// Compile checks the rules. The error joins one *RouteError for each thing that
// is wrong, in the order of the rules. Names are taken as they are: that they
// differ is for the configuration to see.
func Compile(specs []Spec) (*Table, error) {
	t := &Table{rules: make([]rule, len(specs)), byName: map[string]*rule{}, byType: map[string][]*rule{}}
	var errs []error
	for i, s := range specs {
		c := compiler{}
		t.rules[i] = c.rule(s)
		t.byName[s.Name] = &t.rules[i]
		for _, e := range c.errs {
			errs = append(errs, &RouteError{i, s.Name, e})
		}
		for _, w := range c.warnings {
			t.warnings = append(t.warnings, Warning{s.Name, w.Field, w.Err.Error()})
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	t.index()
	return t, nil
}

// index sorts the rules by type of event, so that those of other types cost a
// delivery nothing. The order is that of the configuration.
func (t *Table) index() {
	for i := range t.rules {
		for _, k := range t.rules[i].kinds {
			t.byType[k.event] = nil
		}
	}
	for i := range t.rules {
		r := &t.rules[i]
		if r.wants("") {
			t.forAll = append(t.forAll, r)
		}
		for event := range t.byType {
			if r.wants(event) {
				t.byType[event] = append(t.byType[event], r)
			}
		}
	}
}

// wants tells whether a type of event may start the rule.
func (r *rule) wants(event string) bool {
	return slices.ContainsFunc(r.kinds, func(k kind) bool { return k.event == "" || k.event == event })
}

// Warnings tells what is odd in the rules, though it may be meant.
func (t *Table) Warnings() []Warning { return slices.Clone(t.warnings) }

// Match implements queue.Matcher.
func (t *Table) Match(e *queue.Event, p *queue.Payload) []queue.Match {
	rules, ok := t.byType[e.EventType]
	if !ok {
		rules = t.forAll
	}
	if len(rules) == 0 {
		return nil
	}
	var matches []queue.Match
	in := &input{event: e, payload: p}
	defer in.release()
	for _, r := range rules {
		if held, err := r.holds(in); held || err != nil {
			matches = append(matches, queue.Match{Route: r.name, Err: err})
		}
	}
	return matches
}

// Wants implements queue.Matcher. ErrUnknownRoute when no rule has the name.
func (t *Table) Wants(route string, e *queue.Event, p *queue.Payload) (bool, error) {
	r, ok := t.byName[route]
	if !ok {
		return false, queue.UnknownRoute(route, "the configuration has", t.names())
	}
	in := &input{event: e, payload: p}
	defer in.release()
	return r.holds(in)
}

func (t *Table) names() []string {
	names := make([]string, len(t.rules))
	for i := range t.rules {
		names[i] = t.rules[i].name
	}
	return names
}

// holds asks the predicates, up to the first that does not hold. A panic in one
// is an error of this rule: the others must still be asked.
func (r *rule) holds(in *input) (held bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			held, err = false, fmt.Errorf("panic: %v", v)
		}
	}()
	if !anyKind(r.kinds, in.event) {
		return false, nil
	}
	for i := range r.filters {
		if held, err := r.filters[i].holds(in); !held || err != nil {
			return false, err
		}
	}
	if r.cond == nil {
		return true, nil
	}
	return r.cond.holds(in)
}

// kind is what an item of "on" asks for.
type kind struct {
	event, action string // empty: any
}

func anyKind(kinds []kind, e *queue.Event) bool {
	for _, k := range kinds {
		if (k.event == "" || k.event == e.EventType) && (k.action == "" || k.action == string(e.Action)) {
			return true
		}
	}
	return false
}

// filter is a key of a rule's filter.
type filter struct {
	fact   int // index of facts
	wanted []string
	globs  []glob
}

func (f *filter) holds(in *input) (bool, error) {
	values, err := in.fact(f.fact)
	if err != nil {
		return false, fmt.Errorf("filter.%s: %w", facts[f.fact].key, err)
	}
	return anyGlob(f.globs, values), nil
}
