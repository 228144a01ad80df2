package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template"

	"orchestrate/internal/queue"
)

// The longest texts that a template may make, in bytes. Linux takes arguments of
// 32 pages with the NUL behind them (MAX_ARG_STRLEN, man 2 execve); what a
// command reads could be longer, but who wants all of it takes the payload.
const (
	maxArgument = 128<<10 - 1
	maxStdin    = 1 << 20
)

// pattern is a text of the configuration, or a template that makes one.
type pattern struct {
	name     string // what errors of an attempt call it: "argument 1"; 0 is the program
	text     string
	template *template.Template // nil: the text as it is
	stdin    bool               // what a command reads, else an argument
	opens    bool               // the template decides the first character, which must not be a dash
}

// parseCommand compiles the arguments. The first is the program, and the
// payload has no say in which that is.
func parseCommand(command []string, allowDash bool) ([]pattern, error) {
	if len(command) == 0 || command[0] == "" {
		return nil, invalid("run.command", "empty: want a program and its arguments, as in [deploy, --fast]")
	}
	var errs []error
	if strings.Contains(command[0], "{{") {
		errs = append(errs, invalid("run.command[0]", "%q: the program can't be a template, or a sender could choose it; name it", command[0]))
		command = append([]string{"program"}, command[1:]...)
	}
	patterns := make([]pattern, len(command))
	for i, text := range command {
		p := &patterns[i]
		*p = pattern{name: "argument " + strconv.Itoa(i), text: text}
		errs = append(errs, p.parse("run.command["+strconv.Itoa(i)+"]"))
		p.opens = p.opens && !allowDash
	}
	return patterns, errors.Join(errs...)
}

// parse compiles the text. Its errors are of field.
func (p *pattern) parse(field string) error {
	if err := p.check(p.text); err != nil {
		return invalid(field, "%w", err)
	}
	if !strings.Contains(p.text, "{{") {
		return nil
	}
	var errs []*queue.FieldError
	p.template, errs = compile(p.name, p.text)
	all := make([]error, len(errs))
	for i, e := range errs {
		e.Field = field
		all[i] = e
	}
	if len(all) == 0 {
		p.opens = !p.stdin && opens(p.template.Root)
	}
	return errors.Join(all...)
}

func invalid(field, format string, args ...any) error {
	return &queue.FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

// errTooLong stops a template; tooLong tells it in full.
var errTooLong = errors.New("too long")

func (p *pattern) tooLong() error {
	if p.stdin {
		return fmt.Errorf("longer than the %d bytes of a text on standard input; stdin: payload has no bound", maxStdin)
	}
	return fmt.Errorf("longer than the %d bytes of an argument; the command can read it from its standard input", maxArgument)
}

func (p *pattern) max() int {
	if p.stdin {
		return maxStdin
	}
	return maxArgument
}

// check refuses what no program can be given.
func (p *pattern) check(text string) error {
	switch {
	case len(text) > p.max():
		return p.tooLong()
	case !p.stdin && strings.ContainsRune(text, 0):
		return errors.New("a NUL byte, which no argument can hold")
	}
	return nil
}

// render makes the texts of an attempt. Its errors are permanent: the same
// payload gives the same texts.
func render(patterns []pattern, t *queue.Task, payload []byte) ([]string, error) {
	texts := make([]string, len(patterns))
	var data any
	for i := range patterns {
		p := &patterns[i]
		texts[i] = p.text
		if p.template == nil {
			continue
		}
		if data == nil {
			var err error
			if data, err = decode(payload); err != nil {
				return nil, queue.Permanent("%s: payload: %w", p.name, err)
			}
		}
		text, err := p.render(data, func() map[string]any { return facts(t) })
		if err != nil {
			return nil, queue.Permanent("%s: %w", p.name, err)
		}
		texts[i] = text
	}
	return texts, nil
}

// decode keeps numbers as they are written: as floats, large ids would change.
// Whole ones are numbers that a template can compare.
func decode(payload []byte) (data any, err error) {
	if values, _ := queue.Shape(payload); values > queue.MaxValues {
		return nil, fmt.Errorf("%d values, more than the %d that templates look into; the command can read it from its standard input", values, queue.MaxValues)
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	err = d.Decode(&data)
	return comparable(data), err
}

// comparable makes numbers of those that print just as they are written.
func comparable(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil && strconv.FormatInt(n, 10) == v.String() {
			return n
		}
	case map[string]any:
		for name, member := range v {
			v[name] = comparable(member)
		}
	case []any:
		for i, item := range v {
			v[i] = comparable(item)
		}
	}
	return v
}

func (p *pattern) render(data any, event func() map[string]any) (string, error) {
	t, err := p.template.Clone() // the functions of a template are shared by those who run it
	if err != nil {
		return "", err
	}
	out := bounded{max: p.max()}
	err = t.Funcs(template.FuncMap{"event": event}).Funcs(newEffort().functions()).Execute(&out, data)
	var unfit *unfitError
	switch {
	case errors.As(err, &unfit):
		return "", unfit // without the template's inner workings
	case errors.Is(err, errTooLong):
		return "", p.tooLong()
	case errors.Is(err, errTooMuch):
		return "", fmt.Errorf("it goes round over %d times, or puts together over %d MiB; the command can read the payload from its standard input", maxTurns, maxPrinted>>20)
	case err != nil:
		return "", errors.New(reason(err))
	}
	text := out.String()
	if p.opens && strings.HasPrefix(text, "-") {
		return "", fmt.Errorf(`%q starts with "-" and would be taken for an option; put text in front, as in --title=%s, or set allow_leading_dash`,
			queue.Cut(text, maxLine/4), p.text)
	}
	return text, p.check(text)
}

// reason is what an error of text/template says, without the places that it
// counts in its own way: `.x: map has no entry for key "x"`.
func reason(err error) string {
	_, at, ok := strings.Cut(err.Error(), " at <")
	if !ok {
		return err.Error()
	}
	return queue.Cut(strings.Replace(at, ">: ", ": ", 1), 2*maxLine)
}

// bounded keeps a template from filling the memory.
type bounded struct {
	strings.Builder
	max int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.max {
		return 0, errTooLong
	}
	return b.Builder.Write(p)
}

// facts are what `event` stands for in a template, by the names of the columns.
// What an event does not have is null.
func facts(t *queue.Task) map[string]any {
	e := t.Event
	return map[string]any{
		"id": e.ID, "source": e.Source, "delivery_id": e.DeliveryID, "event_type": e.EventType,
		"action": text(e.Action), "repository": text(e.Repository), "sender": text(e.Sender), "ref": text(e.Ref),
		"number": number(e.Number), "hook_id": number(e.HookID), "received_at": e.ReceivedAt.String(),
		"route": t.Route, "attempt": t.Attempt, "idempotency_key": t.Key,
	}
}

func text(s queue.Text) any {
	if s == "" {
		return nil
	}
	return string(s)
}

func number(n queue.Int) any {
	if n == 0 {
		return nil
	}
	return int64(n)
}
