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

	"go.yaml.in/yaml/v3"
)

// systemFile is looked for last.
const systemFile = "/etc/orchestrate/config.yaml"

const (
	maxFile  = 1 << 20 // bytes
	maxItems = 1000    // entries of one list
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
		return "", errors.New("database: none is set, and there is no home directory to keep it in; give --database PATH")
	}
	return filepath.Join(dir, "orchestrate", "orchestrate.db"), nil
}

// readFile returns the top of the one document in a file, and its text; nil if
// there is no file or nothing in it.
func readFile(path string) (root *yaml.Node, text []byte, err error) {
	if path == "" {
		return nil, nil, nil
	}
	text, err = read(path, maxFile, checkTrusted)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	root, err = parse(path, text)
	return root, text, err
}

// read returns what is in a file, which check has looked at; more than most
// bytes are an error.
func read(path string, most int64, check func(*os.File) error) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // G304: who configures names the file
	if err != nil {
		return nil, cause(err)
	}
	defer func() { _ = f.Close() }()
	if err := check(f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("longer than %d bytes", most)
	}
	return b, cause(err)
}

// cause drops operation and path from an error, where a message names them.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func parse(path string, b []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(path, err)
	}
	switch err := d.Decode(&more); {
	case err == nil:
		return nil, fmt.Errorf("%s:%d: a second document starts here; a configuration is one", path, more.Line)
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(path, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// syntaxError puts the line where all other errors of a file have it.
func syntaxError(path string, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		return fmt.Errorf("%s:%s", path, rest)
	}
	return fmt.Errorf("%s: %s", path, msg)
}

// reader reads nodes by hand, so that every problem is found and each has its
// line. What it descends into is bounded by the keys that it knows, whatever
// anchors a file ties.
type reader struct {
	file      string
	text      [][]byte // its lines
	positions map[string]position
	errs      []error
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
	case n.Style&yaml.LiteralStyle != 0 && n.Line < len(r.text):
		p.first = n.Line + 1
		p.indent = len(r.text[n.Line]) - len(bytes.TrimLeft(r.text[n.Line], " "))
	case !strings.Contains(n.Value, "\n") && r.holds(n):
		p.first, p.indent = n.Line, n.Column-1
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			p.indent++
		}
	}
	r.positions[path] = p
}

// holds tells whether a text stands in its line just as it is, unfolded and
// without escapes.
func (r *reader) holds(n *yaml.Node) bool {
	return n.Line <= len(r.text) && n.Column > 0 && n.Column <= len(r.text[n.Line-1]) &&
		bytes.Contains(r.text[n.Line-1][n.Column-1:], []byte(n.Value))
}

// Where tells where a field of the file stands, as FILE:LINE:COLUMN. Line and
// column count from 1 in the field's own text; 0 means the field itself. Of a
// field that is not there, what should hold it is told.
func (c *Config) Where(field string, line, column int) string {
	p, ok := c.positions[field]
	for !ok && field != "" {
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
		p, ok = c.positions[field]
	}
	switch {
	case !ok:
		return c.File
	case line > 0 && p.first > 0:
		return fmt.Sprintf("%s:%d:%d", c.File, p.first+line-1, p.indent+column)
	}
	return fmt.Sprintf("%s:%d:%d", c.File, p.line, p.column)
}

// fields says how to read each key of a mapping.
type fields map[string]func(n *yaml.Node, path string)

func (r *reader) at(line int, path string) string {
	if path == "" {
		return fmt.Sprintf("%s:%d", r.file, line)
	}
	return fmt.Sprintf("%s:%d: %s", r.file, line, path)
}

func (r *reader) fail(err error) {
	if err != nil {
		r.errs = append(r.errs, err)
	}
}

func (r *reader) failAt(n *yaml.Node, path, format string, args ...any) {
	r.fail(fmt.Errorf("%s: %w", r.at(n.Line, path), fmt.Errorf(format, args...)))
}

// mapping reads the fields that are there; those required must be.
func (r *reader) mapping(n *yaml.Node, path string, f fields, required ...string) {
	seen := map[string]bool{}
	ok := r.pairs(n, path, func(key string, k, v *yaml.Node) {
		seen[key] = true
		read, known := f[key]
		if !known {
			r.failAt(k, join(path, key), "unknown key; %s", suggest(key, slices.Sorted(maps.Keys(f))))
			return
		}
		read(v, join(path, key))
	})
	for _, key := range required {
		if ok && !seen[key] {
			r.failAt(n, path, "has no %s", key)
		}
	}
}

// pairs reads a mapping with any keys; null is one without any. It tells
// whether there was one.
func (r *reader) pairs(n *yaml.Node, path string, each func(key string, k, v *yaml.Node)) bool {
	if n = follow(n); n == nil {
		return true
	}
	if n.Kind != yaml.MappingNode {
		r.failAt(n, path, "is %s; it wants keys with values", kind(n))
		return false
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch line := seen[k.Value]; {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge":
			r.failAt(k, path, "a key must be a plain word; aliases and merges (<<) are not read there")
		case line > 0:
			r.failAt(k, join(path, k.Value), "stands here again, after line %d; leave one", line)
		default:
			seen[k.Value] = k.Line
			r.note(n.Content[i+1], join(path, k.Value))
			each(k.Value, k, n.Content[i+1])
		}
	}
	return true
}

// list reads the entries of a list; null is one without any.
func (r *reader) list(n *yaml.Node, path string, each func(n *yaml.Node, path string)) {
	if n = follow(n); n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.failAt(n, path, "is %s; it wants a list, as in [a, b]", kind(n))
		return
	}
	if len(n.Content) > maxItems {
		r.failAt(n, path, "has %d entries; at most %d are read", len(n.Content), maxItems)
		return
	}
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", path, i)
		r.note(item, path)
		each(item, path)
	}
}

func (r *reader) strings(n *yaml.Node, path string, check func(string) error) []string {
	var all []string
	if follow(n) != nil {
		all = []string{} // an empty list is not an absent one
	}
	r.list(n, path, func(n *yaml.Node, path string) {
		r.value(n, path, func(s string) error {
			all = append(all, s)
			return check(s)
		})
	})
	return all
}

// some is strings where an empty list would be a riddle.
func (r *reader) some(n *yaml.Node, path, hint string, check func(string) error) []string {
	before := len(r.errs)
	all := r.strings(n, path, check)
	if len(all) == 0 && len(r.errs) == before {
		r.failAt(n, path, "is empty; %s", hint)
	}
	return all
}

// value reads a scalar as the text that stands there: types are not YAML's
// affair here, or a variable set to yes or 010 would reach a command changed.
func (r *reader) value(n *yaml.Node, path string, set func(string) error) {
	v := follow(n)
	switch {
	case v == nil:
		r.failAt(n, path, "has no value; give one, or leave the key out")
	case v.Kind != yaml.ScalarNode:
		r.failAt(v, path, "is %s; it wants one value", kind(v))
	case !slices.Contains([]string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp", "!!merge"}, v.ShortTag()):
		r.failAt(v, path, "has the tag %s; tags are not read", quote(v.ShortTag()))
	default:
		if err := set(v.Value); err != nil {
			r.failAt(v, path, "%w", err)
		}
	}
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

func kind(n *yaml.Node) string {
	return map[yaml.Kind]string{
		yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value",
	}[n.Kind]
}

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

// suggest names the key that was meant, or all there are.
func suggest(key string, known []string) string {
	best := slices.MinFunc(known, func(a, b string) int { return distance(key, a) - distance(key, b) })
	if distance(key, best) <= max(1, len(best)/3) {
		return "did you mean " + best + "?"
	}
	return "the keys here are " + strings.Join(known, ", ")
}

// distance is how many letters have to be added, dropped or replaced.
func distance(a, b string) int {
	if len(a) > 2*len(b)+8 {
		return len(a) // far off, and perhaps very long
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
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
