package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"text/template"
)

// param is what a function takes, as errors call it.
type param string

const (
	anyValue    param = "a value"
	anyText     param = "a text"
	someText    param = "a text of some length"
	wholeNumber param = "a whole number"
)

// function is what an operator may call. Those of text/template have no usage
// here: it checks them itself.
type function struct {
	params    []param
	usage     string
	keepsNull bool // null stays null, so that default may stand behind it
}

// The order of arguments is that of sprig, which Helm's users know: what a
// pipeline hands over comes last. Left out is text/template's call, since
// nothing here can be called.
var functions = map[string]function{
	"default": {[]param{anyValue, anyValue}, `{{ .x | default "none" }}`, false},
	"json":    {[]param{anyValue}, `{{ .x | json }}`, false},
	"trunc":   {[]param{wholeNumber, anyValue}, `{{ .x | trunc 7 }}`, true},
	"base":    {[]param{anyValue}, `{{ .x | base }}`, true},
	"lower":   {[]param{anyValue}, `{{ .x | lower }}`, true},
	"replace": {[]param{someText, anyText, anyValue}, `{{ .x | replace "/" "-" }}`, true},

	"event": {}, "and": {}, "or": {}, "not": {}, "eq": {}, "ne": {}, "lt": {}, "le": {}, "gt": {}, "ge": {}, "len": {}, "index": {},
	"slice": {}, "print": {}, "printf": {}, "println": {}, "html": {}, "js": {}, "urlquery": {},
}

// builtins are what the functions do. The last two can't be called by name: the
// compiler puts them in.
var builtins = template.FuncMap{
	"default": defaultValue,
	"json":    toJSON,
	"trunc":   trunc,
	"base":    func(v any) (any, error) { return onText("base", v, base) },
	"lower":   func(v any) (any, error) { return onText("lower", v, strings.ToLower) },
	"replace": replace,

	"scalar": scalar,
	"lookup": lookup,
}

// effort is what one text may still take: strangers' payloads decide how often a
// range goes round, and how much print puts together.
type effort struct{ turns, printed int }

const (
	maxTurns   = 250_000   // takes a fraction of a second; a push has 2048 commits at most
	maxPrinted = 256 << 20 // bytes, of all that print and its like make: ten times the largest payload
)

var errTooMuch = errors.New("too much work")

func newEffort() *effort { return &effort{maxTurns, maxPrinted} }

// functions are those that take from it.
func (e *effort) functions() template.FuncMap {
	return template.FuncMap{
		"turn":     e.turn,
		"print":    e.printer("print", fmt.Sprint),
		"println":  e.printer("println", fmt.Sprintln),
		"html":     e.printer("html", template.HTMLEscaper),
		"js":       e.printer("js", template.JSEscaper),
		"urlquery": e.printer("urlquery", template.URLQueryEscaper),
		"printf": func(format string, args ...any) (string, error) {
			return e.printer("printf", func(args ...any) string { return fmt.Sprintf(format, args...) })(args...)
		},
	}
}

func (e *effort) turn() (string, error) {
	if e.turns--; e.turns < 0 {
		return "", errTooMuch
	}
	return "", nil
}

// printer takes what goes in before, and what came out after: text that is put
// together of itself doubles.
func (e *effort) printer(name string, print func(...any) string) func(...any) (string, error) {
	checked := printer(name, print)
	return func(args ...any) (string, error) {
		for _, arg := range args {
			if s, ok := arg.(string); ok {
				e.printed -= len(s)
			}
		}
		if e.printed < 0 {
			return "", errTooMuch
		}
		text, err := checked(args...)
		e.printed -= len(text)
		return text, err
	}
}

// unfitError says that a value can't be used where it stands.
type unfitError struct{ source, is string }

func (e *unfitError) Error() string { return e.source + " is " + e.is }

// scalar passes on what can be printed.
func scalar(source string, v any) (any, error) {
	switch v.(type) {
	case nil:
		return nil, &unfitError{source, `null; default says what to use then, as in {{ .x | default "none" }}`}
	case map[string]any:
		return nil, &unfitError{source, "an object: name one of its fields, or print it with json"}
	case []any:
		return nil, &unfitError{source, "a list: range over it, take one item with index, or print it with json"}
	}
	return v, nil
}

// printer refuses what text/template would print as Go does.
func printer(name string, print func(...any) string) func(...any) (string, error) {
	return func(args ...any) (string, error) {
		for i, arg := range args {
			v, err := scalar(fmt.Sprintf("%s: value %d", name, i+1), arg)
			if err != nil {
				return "", err
			}
			if n, ok := v.(json.Number); ok {
				args[i] = numeral(n)
			}
		}
		return print(args...), nil
	}
}

// numeral is printed as it is written, by %d, too.
type numeral string

func (n numeral) Format(f fmt.State, verb rune) {
	if verb == 'd' || verb == 'v' {
		verb = 's'
	}
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), string(n)) // a buffer of fmt's
}

func (n numeral) String() string { return string(n) }

// lookup walks along a path. A key that is not there is null, and so is all
// that would lie behind null.
func lookup(v any, path ...string) (any, error) {
	for i, key := range path {
		switch object := v.(type) {
		case nil:
			return nil, nil
		case map[string]any:
			v = object[key]
		default:
			source := "." + strings.Join(path[:i], ".")
			return nil, &unfitError{source, "no object: it has no key " + strconv.Quote(key)}
		}
	}
	return v, nil
}

// defaultValue differs from sprig's: false and 0 are values of GitHub's, and
// stay.
func defaultValue(fallback, v any) any {
	switch v := v.(type) {
	case nil:
		return fallback
	case string:
		if v == "" {
			return fallback
		}
	case []any:
		if len(v) == 0 {
			return fallback
		}
	case map[string]any:
		if len(v) == 0 {
			return fallback
		}
	}
	return v
}

// toJSON writes on one line, with the keys in order, and numbers as they came.
func toJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// onText applies a function to a text, or to a number or truth as it is
// printed. Null stays null.
func onText(name string, v any, fn func(string) string) (any, error) {
	if v == nil {
		return nil, nil
	}
	v, err := scalar(name+": its value", v)
	if err != nil {
		return nil, err
	}
	return fn(fmt.Sprint(v)), nil
}

// base is the branch or tag in full where a text is a ref of one, since that is
// what is asked for with refs/heads/release/1.2; else the last element of a
// path, and nothing of nothing.
func base(s string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		if name, ok := strings.CutPrefix(s, prefix); ok {
			return name
		}
	}
	if s == "" {
		return ""
	}
	return path.Base(s)
}

// trunc counts characters, which it never splits; below 0 from the end.
func trunc(n, v any) (any, error) {
	count, err := strconv.Atoi(fmt.Sprint(n))
	if err != nil {
		return nil, &unfitError{"trunc: " + strconv.Quote(fmt.Sprint(n)), "no whole number"}
	}
	return onText("trunc", v, func(s string) string {
		r := []rune(s)
		switch {
		case count >= 0 && count < len(r):
			return string(r[:count])
		case count < 0 && count > -len(r):
			return string(r[len(r)+count:])
		}
		return s
	})
}

// replace bounds what it makes: a payload could have many and long ones.
func replace(old, by, v any) (any, error) {
	texts := [2]string{}
	for i, arg := range []any{old, by} {
		s, ok := arg.(string)
		if !ok || i == 0 && s == "" {
			return nil, &unfitError{fmt.Sprintf("replace: argument %d", i+1), "not " + string([]param{someText, anyText}[i])}
		}
		texts[i] = s
	}
	long := false
	made, err := onText("replace", v, func(s string) string {
		grown := int64(strings.Count(s, texts[0])) * int64(len(texts[1])-len(texts[0]))
		if long = grown > maxStdin; long {
			return ""
		}
		return strings.ReplaceAll(s, texts[0], texts[1])
	})
	if long {
		return nil, errTooLong
	}
	return made, err
}
