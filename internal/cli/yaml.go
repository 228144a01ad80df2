package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// writeYAML writes a JSON document as YAML, with its keys in their order. First
// stands before the first entry of a mapping or a sequence, indent before the
// others. What is too deep to be set in is JSON, which YAML takes, too.
//
// The library's emitter is not used, since it leaves in place what reorders the
// text of a terminal, and writes yes and no, which are booleans to many readers,
// without quotes.
func writeYAML(w *bufio.Writer, doc []byte, first, indent string) error {
	if tooDeep(doc) {
		_, _ = fmt.Fprintf(w, "%s%s\n", first, doc) // the writer remembers the first error
		return nil
	}
	y := &yamlWriter{w, json.NewDecoder(bytes.NewReader(doc))}
	y.dec.UseNumber()
	if err := y.value(first, indent); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	return w.WriteByte('\n')
}

// yamlWriter needs no check of its writes: the writer remembers the first error.
type yamlWriter struct {
	w   *bufio.Writer
	dec *json.Decoder
}

func (y *yamlWriter) print(parts ...string) {
	for _, p := range parts {
		_, _ = y.w.WriteString(p)
	}
}

func (y *yamlWriter) value(first, indent string) error {
	token, err := y.dec.Token()
	if err != nil {
		return err
	}
	gap := " " // after a key or a dash
	if first == "" {
		gap = ""
	}
	open, nested := token.(json.Delim)
	switch {
	case !nested:
		y.print(gap, yamlScalar(token, indent))
		return nil
	case !y.dec.More():
		y.print(gap, map[json.Delim]string{'{': "{}", '[': "[]"}[open])
	}
	for before := first; y.dec.More(); before = "\n" + indent {
		y.print(before)
		if err := y.entry(open, indent); err != nil {
			return err
		}
	}
	_, err = y.dec.Token() // the end
	return err
}

// entry writes an element after a dash, or a member after its key.
func (y *yamlWriter) entry(open json.Delim, indent string) error {
	inner := indent + "  "
	if open == '[' {
		y.print("-")
		return y.value(" ", inner)
	}
	token, err := y.dec.Token()
	if err != nil {
		return err
	}
	name, isText := token.(string)
	if !isText {
		return io.ErrUnexpectedEOF
	}
	// YAML finds the colon of a plain key within 1024 characters only.
	if key := yamlWord(name); len(key) < 1000 {
		y.print(key, ":")
	} else {
		y.print("? ", key, "\n", indent, ":")
	}
	return y.value("\n"+inner, inner)
}

// yamlScalar writes a value of JSON that has no parts. A text of several lines
// becomes a block where all of it can be seen.
func yamlScalar(token json.Token, indent string) string {
	s, isText := token.(string)
	switch {
	case token == nil:
		return "null"
	case !isText:
		return fmt.Sprint(token) // a truth, or a number as it was written
	case indent == "" || !isBlock(s):
		return yamlWord(s)
	}
	body, ended := strings.CutSuffix(s, "\n")
	mark := "|-"
	if ended {
		mark = "|"
	}
	var b strings.Builder
	b.WriteString(mark)
	for line := range strings.SplitSeq(body, "\n") {
		b.WriteByte('\n')
		if line != "" {
			b.WriteString(indent + line)
		}
	}
	return b.String()
}

// isBlock tells whether a text has lines that a block shows as they are.
func isBlock(s string) bool {
	body := strings.TrimSuffix(s, "\n")
	return strings.Contains(s, "\n") && body != "" && body == strings.TrimSpace(body) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && yamlEscapes(r) })
}

// bare is what no reader of YAML takes for anything but text: it starts as no
// number does, and has no sign of the grammar.
var bare = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./@+-]*( [A-Za-z0-9_./@+-]+)*$`)

// yamlWord writes a text in one line, in quotes wherever it could be read as
// something else.
func yamlWord(s string) string {
	if bare.MatchString(s) && !yamlReserved(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r > 0xffff && yamlEscapes(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		case yamlEscapes(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// yamlEscapes adds what YAML 1.1 takes for the end of a line.
func yamlEscapes(r rune) bool {
	return mustEscape(r) || r == '\r' || r == '\t' || r == '\u2028' || r == '\u2029'
}

func yamlReserved(s string) bool {
	switch strings.ToLower(s) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return true
	}
	return false
}

// yamlSequence is one sequence that is written as its elements come.
type yamlSequence struct {
	app *App
	n   int
}

func (s *yamlSequence) add(doc []byte) error {
	s.n++
	if _, err := s.app.Out.WriteString("-"); err != nil {
		return err
	}
	return writeYAML(s.app.Out, doc, " ", "  ")
}

func (s *yamlSequence) close() error {
	if s.n == 0 {
		return s.app.printLine("[]")
	}
	return nil
}
