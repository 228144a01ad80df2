package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// outputFormat is how results are printed; it is the flag -o.
type outputFormat string

const (
	formatTable  outputFormat = "table"
	formatJSON   outputFormat = "json"
	formatNDJSON outputFormat = "ndjson"
)

func outputFormats() []string {
	return []string{string(formatTable), string(formatJSON), string(formatNDJSON)}
}

func (f *outputFormat) String() string { return string(*f) }
func (f *outputFormat) Type() string   { return "format" }

func (f *outputFormat) Set(s string) error {
	if !slices.Contains(outputFormats(), s) {
		return fmt.Errorf("want one of %s", strings.Join(outputFormats(), ", "))
	}
	*f = outputFormat(s)
	return nil
}

// jsonFlag is --json, short for -o json.
type jsonFlag struct{ *outputFormat }

func (jsonFlag) String() string   { return "" }
func (jsonFlag) Type() string     { return "bool" }
func (jsonFlag) IsBoolFlag() bool { return true }

func (f jsonFlag) Set(s string) error {
	switch s {
	case "true":
		*f.outputFormat = formatJSON
	case "false":
	default:
		return fmt.Errorf("want true or false")
	}
	return nil
}

// printJSON prints one result: an object over several lines, or as one line
// with ndjson.
func (a *App) printJSON(v any) error {
	b, err := encodeJSON(v, "", a.output == formatJSON)
	if err != nil {
		return err
	}
	_, err = a.Out.Write(append(b, '\n'))
	return err
}

// printLine prints a result that is a sentence.
func (a *App) printLine(format string, args ...any) error {
	_, err := fmt.Fprintf(a.Out, format+"\n", args...)
	return err
}

// list prints results of one kind as they come: rows of a table, elements of
// one array, or lines.
type list[T any] struct {
	app   *App
	table *table
	cells func(T) []string
	n     int
}

// newList prints values with these columns, of which cells makes one row.
func newList[T any](a *App, columns []column, cells func(T) []string) *list[T] {
	return &list[T]{app: a, table: newTable(a, columns), cells: cells}
}

// Add prints a value, or keeps it until the width of its column is known.
func (l *list[T]) Add(v T) error {
	l.n++
	if l.app.output == formatTable {
		return l.table.add(l.cells(v))
	}
	b, err := encodeJSON(v, "  ", l.app.output == formatJSON)
	if err != nil {
		return err
	}
	if l.app.output == formatNDJSON {
		return l.app.printLine("%s", b)
	}
	start := ",\n  "
	if l.n == 1 {
		start = "[\n  "
	}
	_, err = fmt.Fprintf(l.app.Out, "%s%s", start, b)
	return err
}

// Close prints what is left. A table without rows prints nothing.
func (l *list[T]) Close() error {
	switch {
	case l.app.output == formatTable:
		return l.table.flush()
	case l.app.output == formatNDJSON:
		return nil
	case l.n == 0:
		return l.app.printLine("[]")
	default:
		return l.app.printLine("\n]")
	}
}

// encodeJSON writes a value as the documented JSON, over several lines with
// the prefix before all but the first if indent.
func encodeJSON(v any, prefix string, indent bool) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent(prefix, "  ")
	}
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return escapeControls(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// escapeControls writes the characters that a terminal would obey, and those
// that hide or reorder others, as escapes, which loses nothing: in JSON they
// can only stand in strings.
func escapeControls(b []byte) []byte {
	if utf8.Valid(b) && !bytes.ContainsFunc(b, mustEscape) {
		return b
	}
	out := make([]byte, 0, len(b)+64)
	for _, r := range string(b) {
		switch {
		case !mustEscape(r):
			out = append(out, string(r)...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

func mustEscape(r rune) bool { return r != '\n' && r != '\t' && r != '\r' && unicode.Is(unicode.C, r) }
