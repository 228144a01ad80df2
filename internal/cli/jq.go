package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// maxJQArray bounds the JSON of a list that becomes one array, in bytes: as
// values it takes several times as much memory.
const maxJQArray = 64 << 20

// jqFilter is the expression of --jq. It sees the result and nothing else: no
// environment, no files, no input.
type jqFilter struct {
	app  *App
	ctx  context.Context // of the command: a filter may not end by itself
	code *gojq.Code
	n    int // results so far
}

// compileJQ refuses an expression with the place of the mistake.
func compileJQ(ctx context.Context, a *App, text string) (*jqFilter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, usagef("--jq is empty; give an expression, as in --jq '.[].id', or leave the flag away")
	}
	query, err := gojq.Parse(text)
	var at *gojq.ParseError
	if errors.As(err, &at) {
		line, column := position(text, at.Offset-len(at.Token))
		return nil, usagef("--jq %q: %d:%d: %s", text, line, column, at.Error())
	}
	var code *gojq.Code
	if err == nil {
		code, err = gojq.Compile(query)
	}
	if err != nil {
		return nil, usagef("--jq %q: %s", text, err.Error())
	}
	return &jqFilter{app: a, ctx: ctx, code: code}, nil
}

// position counts lines and characters from 1.
func position(text string, offset int) (line, column int) {
	before := text[:min(max(0, offset), len(text))]
	start := strings.LastIndexByte(before, '\n') + 1
	return strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[start:]) + 1
}

// filter prints what the expression makes of a document.
func (f *jqFilter) filter(doc []byte) error {
	v, err := decodeJSON(doc)
	if err != nil {
		return err
	}
	return f.run(v)
}

// decodeJSON keeps numbers as they are written.
func decodeJSON(doc []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read JSON for --jq: %w", err)
	}
	return v, nil
}

// run stops at the first error. halt is none.
func (f *jqFilter) run(v any) error {
	for iter := f.code.RunWithContext(f.ctx, v); ; {
		v, ok := iter.Next()
		if !ok {
			return nil
		}
		err, failed := v.(error)
		var halt *gojq.HaltError
		switch {
		case failed && f.ctx.Err() != nil:
			return context.Cause(f.ctx)
		case errors.As(err, &halt) && halt.Value() == nil:
			return nil
		case failed:
			return fmt.Errorf("--jq: %w", err)
		}
		if err := f.print(v); err != nil {
			return err
		}
	}
}

// print shows a text as it is, since it is for a shell or a reader, and anything
// else as JSON: over several lines where somebody looks.
func (f *jqFilter) print(v any) error {
	a := f.app
	f.n++
	text, isText := v.(string)
	if isText && a.output != formatYAML {
		return a.printLine("%s", strings.Map(visible, text))
	}
	b, err := gojq.Marshal(v)
	if err != nil {
		return fmt.Errorf("--jq: %w", err)
	}
	doc := escapeControls(b)
	switch {
	case a.output == formatYAML && f.n > 1:
		if err := a.printLine("---"); err != nil {
			return err
		}
		return a.printDocument(doc)
	case a.output == formatYAML, a.output == formatJSON && a.OutTTY:
		return a.printDocument(doc)
	}
	return a.printLine("%s", doc)
}

// visible drops what a terminal would obey, but keeps lines and tabs.
func visible(r rune) rune {
	if r == '\r' || mustEscape(r) {
		return -1
	}
	return r
}

// jqArray is a list that is filtered as one array, once all of it is there.
type jqArray struct {
	filter *jqFilter
	values []any
	size   int
}

func (j *jqArray) add(doc []byte) error {
	if j.size += len(doc); j.size > maxJQArray {
		return usagef("the list is over %d MiB as one array for --jq; filter each result by itself with -o ndjson, or list less", maxJQArray>>20)
	}
	v, err := decodeJSON(doc)
	j.values = append(j.values, v)
	return err
}

func (j *jqArray) close() error {
	if j.values == nil {
		j.values = []any{}
	}
	return j.filter.run(j.values)
}
