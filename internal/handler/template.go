package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"orchestrate/internal/queue"
)

// maxArgument is the longest argument that Linux takes, in bytes: 32 pages with
// the NUL behind it (MAX_ARG_STRLEN, man 2 execve).
const maxArgument = 128<<10 - 1

// argument is a part of a command: a text, or a template that makes one.
type argument struct {
	name     string // "argument 1"; 0 is the program itself
	text     string
	template *template.Template // nil: the text as it is
	opens    bool               // the template decides the first character
}

// parseCommand compiles the arguments. The first is the program, and the
// payload has no say in which that is.
func parseCommand(command []string) ([]argument, error) {
	if len(command) == 0 || command[0] == "" {
		return nil, errors.New("empty: want a program and its arguments, as in [deploy, --fast]")
	}
	if strings.Contains(command[0], "{{") {
		return nil, fmt.Errorf("program %q: it can't be a template, or a sender could choose it; name it", command[0])
	}
	args := make([]argument, len(command))
	for i, text := range command {
		a, err := parseArgument("argument "+strconv.Itoa(i), text)
		if err != nil {
			return nil, err
		}
		args[i] = a
	}
	return args, nil
}

func parseArgument(name, text string) (argument, error) {
	a := argument{name: name, text: text}
	if err := a.check(text); err != nil {
		return a, err
	}
	if !strings.Contains(text, "{{") {
		return a, nil
	}
	funcs := template.FuncMap{"event": noFacts, "scalar": scalar}
	t, err := template.New(name).Option("missingkey=error").Funcs(funcs).Parse(text)
	if err != nil {
		return a, fmt.Errorf("%q: %w", text, err) // it tells which argument
	}
	for _, t := range t.Templates() {
		guard(t.Root)
	}
	a.template = t
	if nodes := t.Root.Nodes; len(nodes) > 0 {
		a.opens = nodes[0].Type() != parse.NodeText
	}
	return a, nil
}

func noFacts() map[string]any { return nil }

// check refuses what no program can be given.
func (a argument) check(text string) error {
	switch {
	case len(text) > maxArgument:
		return fmt.Errorf("%s: %w", a.name, errTooLong)
	case strings.ContainsRune(text, 0):
		return fmt.Errorf("%s: a NUL byte, which no argument can hold", a.name)
	}
	return nil
}

var errTooLong = fmt.Errorf("longer than the %d bytes of an argument; the command can read the payload from its standard input", maxArgument)

// render makes the arguments of an attempt. Its errors are permanent: the same
// payload gives the same arguments.
func render(args []argument, t *queue.Task, payload []byte) ([]string, error) {
	argv := make([]string, len(args))
	var data any
	for i, a := range args {
		argv[i] = a.text
		if a.template == nil {
			continue
		}
		if data == nil {
			var err error
			if data, err = decode(payload); err != nil {
				return nil, queue.Permanent("%s: payload: %w", a.name, err)
			}
		}
		text, err := a.render(data, func() map[string]any { return facts(t) })
		if err != nil {
			return nil, &queue.PermanentError{Err: err}
		}
		argv[i] = text
	}
	return argv, nil
}

// decode keeps numbers as they are written: as floats, large ids would change.
func decode(payload []byte) (data any, err error) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	return data, d.Decode(&data)
}

func (a argument) render(data any, event func() map[string]any) (string, error) {
	t, err := a.template.Clone() // the functions of a template are shared by those who run it
	if err != nil {
		return "", err
	}
	var out bounded
	err = t.Funcs(template.FuncMap{"event": event}).Execute(&out, data)
	var unfit *unfitError
	switch {
	case errors.As(err, &unfit):
		return "", fmt.Errorf("%s: %w", a.name, unfit) // without the template's inner workings
	case errors.Is(err, errTooLong):
		return "", fmt.Errorf("%s: %w", a.name, err)
	case err != nil:
		return "", err // it tells which argument
	}
	text := out.String()
	if a.opens && strings.HasPrefix(text, "-") {
		return "", fmt.Errorf(`%s: %q starts with "-" and would be taken for an option; put text in front, as in --title=%s`,
			a.name, queue.Cut(text, maxLine/4), a.text)
	}
	return text, a.check(text)
}

// bounded keeps a template from filling the memory.
type bounded struct{ strings.Builder }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxArgument {
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

// guard has every value that a template prints pass through scalar.
// text/template would print null as "<no value>" and an object as Go does, and
// a command would take that for what GitHub sent.
func guard(n parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, child := range n.Nodes {
				guard(child)
			}
		}
	case *parse.ActionNode:
		if len(n.Pipe.Decl) == 0 {
			source := n.Pipe.String()
			n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{
				parse.NewIdentifier("scalar").SetPos(n.Pos),
				&parse.StringNode{NodeType: parse.NodeString, Pos: n.Pos, Quoted: strconv.Quote(source), Text: source},
			}})
		}
	case *parse.IfNode:
		guard(n.List)
		guard(n.ElseList)
	case *parse.RangeNode:
		guard(n.List)
		guard(n.ElseList)
	case *parse.WithNode:
		guard(n.List)
		guard(n.ElseList)
	}
}

// unfitError says that a value can't be a part of an argument.
type unfitError struct{ source, is string }

func (e *unfitError) Error() string { return e.source + " is " + e.is }

func scalar(source string, v any) (any, error) {
	switch v.(type) {
	case nil:
		return nil, &unfitError{source, "null"}
	case map[string]any:
		return nil, &unfitError{source, "an object: name one of its fields"}
	case []any:
		return nil, &unfitError{source, "a list: range over it, or take one item with index"}
	}
	return v, nil
}
