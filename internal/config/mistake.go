package config

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Mistake is one thing that is wrong with what was configured.
type Mistake struct {
	File         string // "" for what stands in no file
	Line, Column int    // from 1; 0 if not known
	Field        string // as the file names it: routes[0].run.timeout; "" for all
	Subject      string // as people know it: "route deploy: run.timeout"
	Err          error

	meant string // the field that Field is a misspelling of
}

// Error is "FILE:LINE:COLUMN: route NAME: FIELD: what is wrong", as far as that
// is known.
func (m *Mistake) Error() string {
	text := m.Err.Error()
	for _, before := range []string{m.Subject, m.Place()} {
		if before != "" {
			text = before + ": " + text
		}
	}
	return text
}

// Place is FILE:LINE:COLUMN, as far as that is known.
func (m *Mistake) Place() string {
	place := m.File
	for _, n := range []int{m.Line, m.Column} {
		if n > 0 {
			place += ":" + strconv.Itoa(n)
		}
	}
	return place
}

func (m *Mistake) Unwrap() error { return m.Err }

// Mistakes is the ErrInvalid that tells everything that is wrong, in the order
// of the file; what stands in none comes first.
type Mistakes struct {
	All    []*Mistake
	Config *Config // as far as it could be read, so that more can be found; nil if nothing could
}

func (m *Mistakes) Error() string {
	lines := make([]string, len(m.All))
	for i, one := range m.All {
		lines[i] = one.Error()
	}
	return ErrInvalid.Error() + ": " + strings.Join(lines, "\n")
}

// Is makes it ErrInvalid.
func (m *Mistakes) Is(target error) bool { return target == ErrInvalid }

// With adds mistakes, but none about a field of which one was told already: they
// would only repeat it. It returns nil if there are none at all.
func (m *Mistakes) With(more ...*Mistake) error {
	all := slices.Clone(m.All)
	said := map[string]bool{}
	for _, one := range more {
		if text := one.Error(); !said[text] && !slices.ContainsFunc(m.All, func(told *Mistake) bool { return told.about(one.Field) }) {
			said[text] = true
			all = append(all, one)
		}
	}
	if len(all) == 0 {
		return nil
	}
	InOrder(all)
	return &Mistakes{all, m.Config}
}

// InOrder sorts by place; what stands in no file comes first.
func InOrder(all []*Mistake) {
	slices.SortStableFunc(all, func(a, b *Mistake) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// about tells whether a mistake is one of a field, of something in it, or of
// what it is in.
func (m *Mistake) about(field string) bool {
	return m.Field != "" && (within(field, m.Field) || within(m.Field, field)) || m.meant != "" && within(field, m.meant)
}

func within(field, of string) bool {
	rest, ok := strings.CutPrefix(field, of)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// Mistake is err with the place of a field. Line and column count from 1 in the
// field's own text; 0 means the field itself. Of a field that is not there, the
// place is that of what should hold it.
func (c *Config) Mistake(field string, line, column int, err error) *Mistake {
	if within(field, "secrets") && c.origins["secrets"] == SecretVariable {
		return plain("secrets", err)
	}
	m := &Mistake{Field: field, Subject: c.subject(field), Err: err}
	p, ok := c.positions[field]
	for up := field; !ok && up != ""; p, ok = c.positions[up] {
		up = up[:max(0, strings.LastIndexAny(up, ".["))]
	}
	m.File, m.Line, m.Column = c.File, p.line, p.column
	if line > 0 && p.first > 0 {
		m.Line, m.Column = p.first+line-1, p.indent+column
	}
	return m
}

var inList = regexp.MustCompile(`^(routes|sources)\[(\d+)\](?:\.(.*))?$`)

// subject names routes and sources by their names, where they have one.
func (c *Config) subject(field string) string {
	m := inList.FindStringSubmatch(field)
	if m == nil {
		return field
	}
	i, err := strconv.Atoi(m[2])
	if err != nil {
		return field
	}
	subject, name := m[1][:len(m[1])-1]+" ", ""
	switch {
	case m[1] == "routes" && i < len(c.Routes):
		name = c.Routes[i].Name
	case m[1] == "sources" && i < len(c.Sources):
		name = c.Sources[i].Name
	}
	switch {
	case !routeName.MatchString(name):
		return field
	case m[3] == "":
		return subject + name
	}
	return subject + name + ": " + m[3]
}

// named puts the names into what was found before they were known.
func (l *loader) named() []*Mistake {
	for _, m := range l.errs {
		if m.File != "" {
			m.Subject = l.c.subject(m.Field)
		}
	}
	return l.errs
}

// plain is a mistake of what stands in no place of a file.
func plain(subject string, err error) *Mistake { return &Mistake{Subject: subject, Err: err} }
