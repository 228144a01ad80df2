package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"orchestrate/internal/nearest"
	"orchestrate/internal/queue"
)

// compiler checks one rule.
type compiler struct {
	errs     []*queue.FieldError
	warnings []*queue.FieldError
}

func (c *compiler) fail(field, format string, args ...any) {
	c.errs = append(c.errs, &queue.FieldError{Field: field, Err: fmt.Errorf(format, args...)})
}

func (c *compiler) warn(field, format string, args ...any) {
	c.warnings = append(c.warnings, &queue.FieldError{Field: field, Err: fmt.Errorf(format, args...)})
}

func (c *compiler) rule(s Spec) rule {
	r := rule{name: s.Name, items: slices.Clone(s.On), kinds: c.on(s.On)}
	for i := range facts {
		wanted, set := s.Filter.of(facts[i].key)
		if !set {
			continue
		}
		f := filter{fact: i, wanted: slices.Clone(wanted), globs: c.patterns(&facts[i], wanted)}
		c.reachable(&facts[i], r.kinds)
		r.filters = append(r.filters, f)
	}
	if s.If != "" {
		cond, errs := compileCondition(s.If)
		r.cond = cond
		c.errs = append(c.errs, errs...)
	}
	return r
}

// of are the values that a key of the filter has, and whether it is there.
func (f *Filter) of(key string) (wanted []string, set bool) {
	list := map[string][]string{
		"repository": f.Repository, "base_branch": f.BaseBranch, "labels": f.Labels, "author": f.Author, "paths": f.Paths,
		"conclusion": f.Conclusion, "author_association": f.AuthorAssociation, "sender_type": f.SenderType,
	}[key]
	switch {
	case key == "skip_forks" && f.SkipForks:
		list = []string{sameRepository}
	case key == "draft" && f.Draft != nil:
		list = []string{fmt.Sprint(*f.Draft)}
	}
	return list, list != nil
}

func (c *compiler) on(items []string) []kind {
	if len(items) == 0 {
		c.fail("on", `empty; name events, as in "push" or "pull_request.opened", or "*" for all`)
	}
	kinds := make([]kind, 0, len(items))
	for i, item := range items {
		field := fmt.Sprintf("on[%d]", i)
		k, err := parseKind(item)
		switch first := slices.Index(items, item); {
		case err != nil:
			c.errs = append(c.errs, &queue.FieldError{Field: field, Err: err})
			continue
		case first < i:
			c.fail(field, "%q stands in on[%d] already; leave one", item, first)
			continue
		case slices.ContainsFunc(kinds, k.isIn):
			c.warn(field, "%q is among what stands before it", item)
		}
		if text := doubt(k); text != "" {
			c.warn(field, "%s", text)
		}
		kinds = append(kinds, k)
	}
	return kinds
}

// isIn tells whether all that k asks for is what o asks for, too.
func (k kind) isIn(o kind) bool {
	return (o.event == "" || o.event == k.event) && (o.action == "" || o.action == k.action)
}

func parseKind(item string) (kind, error) {
	if item == "*" {
		return kind{}, nil
	}
	event, action, dotted := strings.Cut(item, ".")
	if !isName(event) || dotted && !isAction(event, action) {
		hint := `want event or event.action, as in push or pull_request.opened, or "*" for all`
		if meant, ok := nearest.Word(item, knownItems()); ok {
			hint = "did you mean " + meant + "?"
		}
		return kind{}, fmt.Errorf("%q is no event; %s", item, hint)
	}
	return kind{event, action}, nil
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

// isAction lets an action through that a caller of the API made up: the event's
// type of a repository_dispatch.
func isAction(event, action string) bool {
	if known[event] == anyAction {
		return action != "" && action == string(queue.Clean(action)) && action != anyAction
	}
	return isName(action)
}

// patterns compiles the list of a key.
func (c *compiler) patterns(f *fact, wanted []string) []glob {
	field := "filter." + f.key
	if len(wanted) == 0 {
		c.fail(field, "empty, so that nothing could match; name what is wanted, or leave it out")
	}
	globs := make([]glob, len(wanted))
	for i, w := range wanted {
		g, err := f.names.compile(w)
		if err == nil && slices.Contains(globs[:i], g) {
			err = errors.New(quoted(w) + " stands in the list already; leave one")
		}
		if err != nil {
			c.fail(fmt.Sprintf("%s[%d]", field, i), "%w", err)
		}
		globs[i] = g
	}
	return globs
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

// reachable refuses a key that none of the rule's events has, and warns of those
// that have it not: an event without the fact is no match.
func (c *compiler) reachable(f *fact, kinds []kind) {
	field := "filter." + f.key
	var without []string
	for _, k := range kinds {
		if k.event != "" && f.of(k.event) == nil && !slices.Contains(without, k.event) {
			without = append(without, k.event)
		}
	}
	lacking := 0
	for _, k := range kinds {
		if slices.Contains(without, k.event) {
			lacking++
		}
	}
	switch {
	case lacking == 0:
	case lacking == len(kinds):
		c.fail(field, "no event of type %s has it, so that the route could never start; these have it: %s",
			strings.Join(without, ", "), strings.Join(f.events(), ", "))
	default:
		c.warn(field, "no event of type %s has it, so that none starts this route", strings.Join(without, ", "))
	}
}
