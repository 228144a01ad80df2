package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"orchestrate/internal/nearest"
)

// systemFile is looked for last.
const systemFile = "/etc/orchestrate/config.yaml"

const (
	maxFile  = 1 << 20 // bytes
	maxItems = 1000    // entries of one list

	maxMistakes = 1000 // that are told
)

// find tells which file to read; "" if none was named and none is there. A
// place that can't be looked into is an error: to pass over a file that is
// there would mean another database and other routes.
func find(named, system string) (string, error) {
	if named == "" {
		named = os.Getenv("ORCHESTRATE_CONFIG")
	}
	if named != "" {
		return named, nil
	}
	places := []string{system}
	if dir := xdg("XDG_CONFIG_HOME", ".config"); dir != "" {
		places = []string{filepath.Join(dir, "orchestrate", "config.yaml"), system}
	}
	for _, path := range places {
		switch _, err := os.Lstat(path); {
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return "", fmt.Errorf("look for a configuration: %w; name one with --config", err)
		}
	}
	return "", nil
}

// xdg is a directory of the XDG base directory specification, which says that
// relative ones are not looked at; "" if there is none.
func xdg(variable, underHome string) string {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return ""
	}
	return filepath.Join(home, filepath.FromSlash(underHome))
}

// defaultDatabase lies in the state directory: systemd's, or the user's.
func defaultDatabase() (string, error) {
	dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	if runtime.GOOS == "windows" {
		dir = "" // no systemd, and a colon in each path
	}
	if dir != "" {
		return filepath.Abs(filepath.Join(dir, "orchestrate.db"))
	}
	if dir = xdg("XDG_STATE_HOME", ".local/state"); dir == "" {
		return "", errors.New("none is set, and there is no home directory to keep it in; give --database PATH")
	}
	return filepath.Join(dir, "orchestrate", "orchestrate.db"), nil
}

// readFile returns the top of the one document in a file, and its text; nil if
// there is no file or nothing in it.
func readFile(path string) (root *yaml.Node, text []byte, m *Mistake) {
	if path == "" {
		return nil, nil, nil
	}
	text, err := read(path, maxFile, checkTrusted)
	if err != nil {
		return nil, nil, plain("configuration file "+path, err)
	}
	root, m = parse(path, text)
	return root, text, m
}

// read returns what is in a file, which check has looked at; more than most
// bytes are an error.
func read(path string, most int64, check func(*os.File) error) ([]byte, error) {
	f, err := os.OpenFile(path, openFlags, 0) //nolint:gosec // G304: who configures names the file
	if err != nil {
		return nil, cause(err)
	}
	defer func() { _ = f.Close() }()
	if err := check(f); err != nil {
		return nil, err
	}
	// A pipe may be left open by whoever writes to it; a reload must end.
	hurry := time.AfterFunc(readPatience, func() { _ = f.Close() })
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	info, statErr := f.Stat()
	switch {
	case !hurry.Stop():
		err = fmt.Errorf("nothing more came for %s", readPatience)
	case err == nil && int64(len(b)) > most:
		err = fmt.Errorf("longer than %d bytes", most)
	case err == nil && len(b) == 0 && statErr == nil && !info.Mode().IsRegular():
		err = errors.New("a pipe that nobody writes to")
	}
	return b, cause(err)
}

// readPatience is how long one file may take.
const readPatience = 10 * time.Second

// cause drops operation and path from an error, where a message names them.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func parse(path string, b []byte) (*yaml.Node, *Mistake) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(path, b, err)
	}
	switch err := d.Decode(&more); {
	case err == nil:
		return nil, &Mistake{File: path, Line: more.Line, Column: more.Column, Err: errors.New("a second document starts here; a configuration is one: leave out the line ---")}
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(path, b, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// syntaxError puts the line where all other errors of a file have it, and says
// in other words what the parser means.
func syntaxError(path string, text []byte, err error) *Mistake {
	m := &Mistake{File: path, Line: 1} // the parser names every line but the first
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if line, what, ok := strings.Cut(rest, ": "); ok {
			m.Line, _ = strconv.Atoi(line)
			msg = what
		}
	}
	if name, ok := strings.CutPrefix(msg, "unknown anchor "); ok {
		name, _, _ = strings.Cut(strings.Trim(name, "'"), "'")
		m.at(text, bytes.Index(text, []byte("*"+name)))
		msg = fmt.Sprintf("there is no anchor %s; put a value that begins with * in quotes", quote(name))
	}
	for _, known := range yamlSays {
		if strings.Contains(msg, known.says) {
			msg = known.means
			m.Line += known.lines
			break
		}
	}
	if bad := unreadable(text); bad >= 0 {
		m.at(text, bad)
	}
	m.Err = errors.New("not YAML: " + msg)
	return m
}

// at moves a mistake to a byte of the file.
func (m *Mistake) at(text []byte, offset int) {
	if offset >= 0 {
		before := text[:offset]
		m.Line = 1 + bytes.Count(before, []byte("\n"))
		m.Column = 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	}
}

// unreadable is the first byte that no YAML file may hold; -1 if there is none.
func unreadable(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n < 2 || isControl(r) && !strings.ContainsRune("\t\n\r", r) {
			return i
		}
		i += n
	}
	return -1
}

// yamlSays are the parser's words, and what they mean. Some it says of the line
// before the one that it means.
var yamlSays = []struct {
	says  string
	lines int
	means string
}{
	{"cannot start any token", 0, "a tab, or a value that begins with @, ` or %; indent with blanks, and put such a value in quotes"},
	{"tab character", 0, "a tab where blanks are wanted; indent with blanks"},
	{"mapping values are not allowed", 0, "a second colon, or a key that is indented too far; put a value that has a colon in quotes, and align the keys"},
	{"did not find expected key", 1, "a line that does not fit the keys above it; align the keys, and quote a value that goes on behind its quotes"},
	{"expected '-' indicator", 1, "a line that does not fit the list above it; align its items"},
	{"expected ',' or ']'", 1, "the list that begins here is not closed, or an item in it is not quoted; close it with ]"},
	{"expected ',' or '}'", 1, "the mapping that begins here is not closed, or a value in it is not quoted; close it with }"},
	{"expected node content", 1, "a value is missing here, or a bracket is too much; write the value, or remove the bracket"},
	{"could not find expected ':'", 0, "a line that is no key; write it as KEY: VALUE, or indent it if it belongs to the text above"},
	{"unexpected end of stream", 0, "the file ends within quotes; close them"},
	{"alphabetic or numeric character", 0, "a value that begins with * or &; put it in quotes"},
	{"unknown escape character", 0, `an escape that double quotes do not have; write \\ for a backslash, or use single quotes`},
	{"block sequence entries are not allowed", 0, "a list that begins beside something else; begin it on the line below its key"},
	{"UTF-8", 0, "a byte that is not UTF-8; save the file in UTF-8"},
	{"control characters", 0, "a control character; remove it"},
}

// reader reads nodes by hand, so that every problem is found and each has its
// line. What it descends into is bounded by the keys that it knows, whatever
// anchors a file ties.
type reader struct {
	file      string
	text      [][]byte // its lines
	positions map[string]position
	errs      []*Mistake
}

// position is where a value begins, and, if it is a text whose lines stand as
// they are, where its own lines and columns begin.
type position struct {
	line, column int
	first        int // line of the text's first line; 0: its lines are not the file's
	indent       int // columns before each of its lines
}

// note keeps where a value stands, for errors that others find in it.
func (r *reader) note(n *yaml.Node, path string) {
	if n = follow(n); n == nil {
		return
	}
	p := position{line: n.Line, column: n.Column}
	switch {
	case n.Kind != yaml.ScalarNode:
	case n.Style&yaml.LiteralStyle != 0:
		p.first, p.indent = n.Line+1, r.indentOf(n)
	case !strings.Contains(n.Value, "\n") && r.holds(n):
		p.first, p.indent = n.Line, n.Column-1
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			p.indent++
		}
	}
	r.positions[path] = p
}

// indentOf is how far in the lines of a literal text stand.
func (r *reader) indentOf(n *yaml.Node) int {
	for i, own := range strings.Split(n.Value, "\n") {
		if at := n.Line + i; own != "" && at < len(r.text) {
			return max(0, len(bytes.TrimSuffix(r.text[at], []byte("\r")))-len(own))
		}
	}
	return 0
}

// holds tells whether a text stands in its line just as it is, unfolded and
// without escapes.
func (r *reader) holds(n *yaml.Node) bool {
	return n.Line <= len(r.text) && n.Column > 0 && n.Column <= len(r.text[n.Line-1]) &&
		bytes.Contains(r.text[n.Line-1][n.Column-1:], []byte(n.Value))
}

// fields says how to read each key of a mapping.
type fields map[string]func(n *yaml.Node, path string)

// fail tells of what stands in no place of the file.
func (r *reader) fail(subject string, err error) {
	if err != nil {
		r.add(plain(subject, err))
	}
}

func (r *reader) failAt(n *yaml.Node, path, format string, args ...any) {
	r.add(r.mistake(n, path, format, args...))
}

func (r *reader) mistake(n *yaml.Node, path, format string, args ...any) *Mistake {
	return &Mistake{File: r.file, Line: n.Line, Column: n.Column, Field: path, Subject: path, Err: fmt.Errorf(format, args...)}
}

// add keeps a mistake, if there are not too many already.
func (r *reader) add(m *Mistake) {
	switch n := len(r.errs); {
	case n < maxMistakes:
		r.errs = append(r.errs, m)
	case n == maxMistakes:
		r.errs = append(r.errs, plain("configuration file "+r.file, fmt.Errorf("more than %d mistakes; the others are not told", maxMistakes)))
	}
}

// mapping reads the fields that are there. Those required must be; each is
// given as it could stand there: "on: [push]".
func (r *reader) mapping(n *yaml.Node, path string, f fields, required ...string) {
	seen := map[string]bool{}
	known := slices.Sorted(maps.Keys(f))
	ok := r.pairs(n, path, "any of "+strings.Join(known, ", "), func(key string, k, v *yaml.Node) {
		seen[key] = true
		read, ok := f[key]
		if !ok {
			m := r.mistake(k, join(path, key), "unknown key; %s", nearest.Hint(key, known))
			if meant, near := nearest.Word(key, known); near { // it is not told, too, that it is missing
				seen[meant], m.meant = true, join(path, meant)
			}
			r.add(m)
			return
		}
		read(v, join(path, key))
	})
	for _, example := range required {
		if key, _, _ := strings.Cut(example, ":"); ok && !seen[key] {
			r.failAt(n, join(path, key), "missing; add it, as in %s", example)
		}
	}
}

// pairs reads a mapping with any keys; null is one without any. It tells
// whether there was one; what says which keys it wants.
func (r *reader) pairs(n *yaml.Node, path, what string, each func(key string, k, v *yaml.Node)) bool {
	if n = follow(n); n == nil {
		return true
	}
	if n.Kind != yaml.MappingNode {
		r.failAt(n, path, "%s; want keys with values, %s", kind(n, path), what)
		return false
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch line := seen[k.Value]; {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge":
			r.failAt(k, path, "a key that is no plain word; lists, aliases and merges (<<) are not read there")
		case line > 0:
			r.failAt(k, join(path, k.Value), "stands on line %d already; leave one", line)
		default:
			seen[k.Value] = k.Line
			r.note(n.Content[i+1], join(path, k.Value))
			each(k.Value, k, n.Content[i+1])
		}
	}
	return true
}

// list reads the entries of a list; null is one without any. Example is one
// that could stand there.
func (r *reader) list(n *yaml.Node, path, example string, each func(n *yaml.Node, path string)) {
	if n = follow(n); n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.failAt(n, path, "%s; want a list, as in %s", kind(n, path), example)
		return
	}
	if len(n.Content) > maxItems {
		r.failAt(n, path, "%d entries; at most %d are read", len(n.Content), maxItems)
		return
	}
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", path, i)
		r.note(item, path)
		each(item, path)
	}
}

func (r *reader) strings(n *yaml.Node, path, example string, check func(string) error) []string {
	var all []string
	if follow(n) != nil {
		all = []string{} // an empty list is not an absent one
	}
	r.list(n, path, example, func(n *yaml.Node, path string) {
		r.value(n, path, func(s string) error {
			err := check(s)
			if err != nil {
				s = "" // of a list that is looked at further, the others keep their places
			}
			all = append(all, s)
			return err
		})
	})
	return all
}

// some is strings where an empty list would be a riddle.
func (r *reader) some(n *yaml.Node, path, example string, check func(string) error) []string {
	before := len(r.errs)
	all := r.strings(n, path, example, check)
	if len(all) == 0 && len(r.errs) == before {
		r.failAt(n, path, "empty; name at least one, as in %s", example)
	}
	return all
}

// value reads a scalar as the text that stands there: types are not YAML's
// affair here, or a variable set to yes or 010 would reach a command changed.
func (r *reader) value(n *yaml.Node, path string, set func(string) error) {
	v := follow(n)
	switch {
	case v == nil:
		r.failAt(n, path, "no value; give one, or leave the key out")
	case v.Kind != yaml.ScalarNode && r.begins(v, "{{"):
		r.failAt(v, path, `a template must stand in quotes, as in "{{ .number }}"`)
	case v.Kind != yaml.ScalarNode:
		r.failAt(v, path, "%s; want a single value", kind(v, path))
	case !slices.Contains([]string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp", "!!merge"}, v.ShortTag()):
		r.failAt(v, path, "the tag %s is not read here; quote a value that begins with !", quote(v.ShortTag()))
	default:
		if err := set(v.Value); err != nil {
			r.failAt(v, path, "%w", err)
		}
	}
}

// begins tells whether a value is written so.
func (r *reader) begins(n *yaml.Node, prefix string) bool {
	return n.Line > 0 && n.Line <= len(r.text) && n.Column > 0 && n.Column <= len(r.text[n.Line-1]) &&
		bytes.HasPrefix(r.text[n.Line-1][n.Column-1:], []byte(prefix))
}

// beside makes a path that stands in the file absolute: it is relative to the
// file's directory.
func (r *reader) beside(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	return filepath.Abs(filepath.Join(filepath.Dir(r.file), path))
}

// follow resolves an alias; null is nothing.
func follow(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return nil
	}
	return n
}

// kind is what stands where something else is wanted. A value that may be a
// secret, or that is the whole of a file, is not shown.
func kind(n *yaml.Node, path string) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case mayHide.MatchString(path):
		return "a single value"
	}
	return quote(n.Value) + " is a single value"
}

// mayHide are the places of what may be a secret.
var mayHide = regexp.MustCompile(`^$|(^|\.)(secrets?|env|headers|url|forward|sources\b.*)$`)

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

func join(path, key string) string {
	if !plainKey.MatchString(key) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// quote makes any text safe and short enough for an error.
func quote(s string) string {
	const enough = 100
	if len(s) > enough {
		return strconv.Quote(s[:enough]) + "…"
	}
	return strconv.Quote(s)
}

// checkPath refuses what no path can hold or what a shell would have expanded.
func checkPath(s string) error {
	switch {
	case strings.ContainsFunc(s, isControl):
		return fmt.Errorf("%s holds control characters", quote(s))
	case strings.HasPrefix(s, "~"):
		return fmt.Errorf("%s: ~ is not expanded here; write the whole path", quote(s))
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
