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

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

// outputFormat is how results are printed; it is the flag -o.
type outputFormat string

const (
	formatTable  outputFormat = "table"
	formatWide   outputFormat = "wide"
	formatJSON   outputFormat = "json"
	formatNDJSON outputFormat = "ndjson"
	formatYAML   outputFormat = "yaml"
	formatName   outputFormat = "name"
	formatTSV    outputFormat = "tsv"
)

func outputFormats() []outputFormat {
	return []outputFormat{formatTable, formatWide, formatJSON, formatNDJSON, formatYAML, formatName, formatTSV}
}

const listAnnotation = "list"

// printsList marks a command whose result is a list of rows. The others have
// neither a name nor columns to print.
func printsList(cmd *cobra.Command) *cobra.Command {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[listAnnotation] = ""
	return cmd
}

const noResultAnnotation = "no_result"

// printsNoResult marks a command that prints no data: there is nothing to
// filter.
func printsNoResult(cmd *cobra.Command) *cobra.Command {
	cmd.Annotations = map[string]string{noResultAnnotation: ""}
	return cmd
}

// formatsOf are the formats that a command prints.
func formatsOf(cmd *cobra.Command) []outputFormat {
	if _, list := cmd.Annotations[listAnnotation]; list {
		return outputFormats()
	}
	return slices.DeleteFunc(outputFormats(), func(f outputFormat) bool { return f == formatName || f == formatTSV })
}

// choice is a flag that takes one of some words.
type choice[S ~string] struct {
	value *S
	words []S
}

func (c choice[S]) String() string {
	if c.value == nil {
		return ""
	}
	return string(*c.value)
}

func (c choice[S]) Type() string { return "string" }

func (c choice[S]) Set(s string) error {
	if !slices.Contains(c.words, S(s)) {
		return fmt.Errorf("want one of %s", joined(c.words))
	}
	*c.value = S(s)
	return nil
}

func joined[S ~string](words []S) string { return strings.Join(texts(words), ", ") }

func texts[S ~string](words []S) []string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	return all
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

// settleOutput checks what the flags say of the output against what the command
// prints, before anything is opened. Wide is a table from here on.
func (a *App) settleOutput(cmd *cobra.Command) error {
	f := cmd.Flags()
	a.output = a.asked
	if have := formatsOf(cmd); !slices.Contains(have, a.output) {
		return usagef("%s has no -o %s: want one of %s", cmd.Name(), a.output, joined(have))
	}
	if a.output == formatWide && !f.Changed("jq") {
		a.output, a.wide = formatTable, true
	}
	if f.Changed("jq") {
		return a.settleJQ(cmd)
	}
	return nil
}

func (a *App) settleJQ(cmd *cobra.Command) (err error) {
	_, nothing := cmd.Annotations[noResultAnnotation]
	asked := cmd.Flags().Changed("output") || cmd.Flags().Changed("json")
	switch {
	case nothing:
		return usagef("%s prints no JSON that --jq could filter", cmd.Name())
	case !asked:
		a.output = formatJSON
	case !a.documents():
		return usagef("--jq filters JSON; leave -o %s away, or give one of json, ndjson, yaml", a.output)
	}
	a.jq, err = compileJQ(cmd.Context(), a, a.jqText)
	return err
}

// documents tells whether results are printed as documents for programs, which
// then read errors, too.
func (a *App) documents() bool { return a.output.documents() }

func (f outputFormat) documents() bool {
	return f == formatJSON || f == formatNDJSON || f == formatYAML
}

// printJSON prints one result as a document: JSON over several lines, or as one
// line with ndjson, or YAML; or what --jq makes of it.
func (a *App) printJSON(v any) error {
	b, err := encodeJSON(v)
	if err != nil {
		return err
	}
	if a.jq != nil {
		return a.jq.filter(b)
	}
	return a.printDocument(b)
}

func (a *App) printDocument(doc []byte) error {
	if a.output == formatYAML {
		return writeYAML(a.Out, doc, "", "")
	}
	if a.output != formatNDJSON {
		doc = indented(doc, "")
	}
	return a.printLine("%s", doc)
}

// printLine prints a result that is a sentence.
func (a *App) printLine(format string, args ...any) error {
	_, err := fmt.Fprintf(a.Out, format+"\n", args...)
	return err
}

// list prints results of one kind as they come: rows of a table, elements of
// one array, or lines.
type list[T any] struct {
	cells func(T) []string
	rows  rows      // nil: documents
	docs  documents // nil: rows
	n     int
}

// rows prints cells, and documents JSON. Close prints what is left.
type (
	rows interface {
		add(cells []string) error
		close() error
	}
	documents interface {
		add(doc []byte) error
		close() error
	}
)

// newList prints values with these columns, of which cells makes one row. The
// first column names a value.
func newList[T any](a *App, columns []column, cells func(T) []string) *list[T] {
	l := &list[T]{cells: cells}
	switch {
	case a.documents():
		l.docs = newDocuments(a)
	case a.output == formatName:
		l.rows = names{a}
	case a.output == formatTSV:
		l.rows = &tsv{app: a, cols: columns, headed: a.noHeaders}
	default:
		l.rows = newTable(a, columns)
	}
	return l
}

// Add prints a value, or keeps it until the width of its column is known.
func (l *list[T]) Add(v T) error {
	l.n++
	if l.rows != nil {
		return l.rows.add(l.cells(v))
	}
	b, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return l.docs.add(b)
}

// Close prints what is left. A table without rows prints nothing.
func (l *list[T]) Close() error {
	if l.rows != nil {
		return l.rows.close()
	}
	return l.docs.close()
}

func newDocuments(a *App) documents {
	switch {
	case a.output == formatNDJSON:
		return lines{a}
	case a.jq != nil:
		return &jqArray{filter: a.jq}
	case a.output == formatYAML:
		return &yamlSequence{app: a}
	}
	return &jsonArray{app: a}
}

// lines is NDJSON: each document by itself, also for --jq.
type lines struct{ app *App }

func (l lines) add(doc []byte) error {
	if l.app.jq != nil {
		return l.app.jq.filter(doc)
	}
	return l.app.printDocument(doc)
}

func (lines) close() error { return nil }

// jsonArray is one array that is written as its elements come.
type jsonArray struct {
	app *App
	n   int
}

func (j *jsonArray) add(doc []byte) error {
	start := ",\n  "
	if j.n++; j.n == 1 {
		start = "[\n  "
	}
	_, err := fmt.Fprintf(j.app.Out, "%s%s", start, indented(doc, "  "))
	return err
}

func (j *jsonArray) close() error {
	if j.n == 0 {
		return j.app.printLine("[]")
	}
	return j.app.printLine("\n]")
}

// names prints what names each value, and nothing else.
type names struct{ app *App }

func (n names) add(cells []string) error { return n.app.printLine("%s", printable(cells[0])) }
func (names) close() error               { return nil }

// tsv prints every column, whole, tab-separated; what is absent is empty.
type tsv struct {
	app    *App
	cols   []column
	headed bool
}

func (t *tsv) add(cells []string) error {
	if err := t.head(); err != nil {
		return err
	}
	for i, c := range cells {
		cells[i] = escapeTSV(c)
	}
	return t.app.printLine("%s", strings.Join(cells, "\t"))
}

// close prints the headings of an empty list, too: a program that reads columns
// by name finds them.
func (t *tsv) close() error { return t.head() }

func (t *tsv) head() error {
	if t.headed {
		return nil
	}
	t.headed = true
	heads := make([]string, len(t.cols))
	for i, c := range t.cols {
		heads[i] = c.name
	}
	return t.app.printLine("%s", strings.Join(heads, "\t"))
}

// escapeTSV keeps a value within its cell, without loss: \t, \n, \r, \\, and
// \u as in JSON.
func escapeTSV(s string) string {
	s = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`).Replace(s)
	return string(escapeControls([]byte(s)))
}

// encodeJSON writes a value as the documented JSON, in one line.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return escapeControls(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// maxIndented is how deep JSON and YAML are set in; what is deeper is printed in
// one line. The blanks before a payload of 10,000 levels would be 200 MB.
const maxIndented = 100

func tooDeep(doc []byte) bool {
	_, depth := queue.Shape(doc)
	return depth > maxIndented
}

// indented is JSON over several lines, with the prefix before all but the
// first.
func indented(doc []byte, prefix string) []byte {
	if tooDeep(doc) {
		return doc
	}
	var b bytes.Buffer
	must(json.Indent(&b, doc, prefix, "  ")) // it was encoded here
	return b.Bytes()
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

// mustEscape leaves line feeds, tabs and carriage returns to those who know
// where they stand. U+2028 and U+2029 break lines, too, for some terminals.
func mustEscape(r rune) bool {
	return r != '\n' && r != '\t' && r != '\r' && unicode.In(r, unicode.C, unicode.Zl, unicode.Zp)
}
