package handler

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode/utf8"

	"orchestrate/internal/nearest"
	"orchestrate/internal/queue"
)

// compiler checks the trees of a template, which text/template would do when it
// is run, and rewrites them in three places:
//
// Every value that is printed passes through scalar. text/template would print
// null as "<no value>" and an object as Go does, and a command would take that
// for what GitHub sent.
//
// Each turn of a range, and each run of a template that was defined, is counted by
// turn: loops over the payload within loops would hold a worker for ever.
//
// A path whose value goes to default is looked up by lookup, to which a key that
// is not there is null. All others keep missingkey=error.
type compiler struct {
	text  string
	trees map[string]*parse.Tree
	errs  []*queue.FieldError
}

// compile returns the template, or what is wrong with it, with no field yet.
func compile(name, text string) (*template.Template, []*queue.FieldError) {
	c := compiler{text: text}
	var err error
	if c.trees, err = parseTrees(name, text); err != nil {
		return nil, []*queue.FieldError{syntaxError(name, text, err)}
	}
	t := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"event": noFacts}).Funcs(builtins).Funcs(newEffort().functions())
	for _, name := range slices.Sorted(maps.Keys(c.trees)) {
		c.node(c.trees[name].Root)
		if name != t.Name() {
			counted(c.trees[name].Root)
		}
		if _, err := t.AddParseTree(name, c.trees[name]); err != nil {
			c.fail(0, "%w", err)
		}
	}
	return t, c.errs
}

func noFacts() map[string]any { return nil }

// parseTrees leaves functions to check, which knows more about them.
func parseTrees(name, text string) (map[string]*parse.Tree, error) {
	t := parse.New(name)
	t.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	_, err := t.Parse(text, "", "", trees)
	return trees, err
}

// syntaxError finds the action that err is about, which the parser does not
// tell: the one that ends the shortest beginning of the text with that error.
func syntaxError(name, text string, err error) *queue.FieldError {
	end := 0
	for end < len(text) {
		i := strings.Index(text[end:], "}}")
		if i < 0 {
			end = len(text)
			break
		}
		end += i + len("}}")
		if _, e := parseTrees(name, text[:end]); e != nil && e.Error() == err.Error() {
			break
		}
	}
	e := &queue.FieldError{}
	e.Line, e.Column = position(text, max(strings.LastIndex(text[:end], "{{"), 0))
	message := strings.TrimPrefix(err.Error(), "template: "+name+":")
	if _, after, ok := strings.Cut(message, ": "); ok { // behind the line
		message = after
	}
	if means, ok := parserSays[message]; ok {
		message = means
	}
	if strings.HasPrefix(message, "undefined variable") {
		message += "; a field of the payload begins with a dot, as in {{ .ref }}"
	}
	e.Err = errors.New(message)
	return e
}

// parserSays are words of the parser, and what they mean.
var parserSays = map[string]string{
	"unclosed action":            "{{ is not closed; close it with }}",
	`unexpected "}" in operand`:  "{{ is not closed; close it with }}",
	"unexpected EOF":             "{{ if }}, {{ range }} or {{ with }} is not closed; close it with {{ end }}",
	"unexpected {{end}}":         "{{ end }} closes nothing; remove it, or write {{ if }}, {{ range }} or {{ with }} before it",
	"unexpected {{else}}":        "{{ else }} belongs to nothing; write {{ if }}, {{ range }} or {{ with }} before it",
	"missing value for if":       "{{ if }} asks for nothing; name a field, as in {{ if .created }}",
	"missing value for range":    "{{ range }} goes over nothing; name a field, as in {{ range .commits }}",
	"missing value for with":     "{{ with }} takes nothing; name a field, as in {{ with .release }}",
	"missing value for command":  "{{ }} holds nothing; name a field, as in {{ .ref }}",
	"unterminated quoted string": "quotes that are never closed; close them before }}",
}

// position counts lines and characters from 1.
func position(text string, offset int) (line, column int) {
	before := text[:min(offset, len(text))]
	start := strings.LastIndexByte(before, '\n') + 1
	return 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[start:])
}

func (c *compiler) fail(pos parse.Pos, format string, args ...any) {
	e := &queue.FieldError{Err: fmt.Errorf(format, args...)}
	e.Line, e.Column = position(c.text, int(pos))
	c.errs = append(c.errs, e)
}

// opens tells whether an action stands at the beginning of a template.
func opens(root *parse.ListNode) bool {
	return len(root.Nodes) > 0 && root.Nodes[0].Type() != parse.NodeText
}

func (c *compiler) node(n parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, child := range n.Nodes {
				c.node(child)
			}
		}
	case *parse.ActionNode:
		source := n.Pipe.String() // as the operator wrote it
		c.pipe(n.Pipe, false)
		if len(n.Pipe.Decl) == 0 {
			n.Pipe.Cmds = append(n.Pipe.Cmds, call(n.Pos, "scalar", quoted(n.Pos, source)))
		}
	case *parse.IfNode:
		c.branch(&n.BranchNode)
	case *parse.RangeNode:
		c.branch(&n.BranchNode)
		counted(n.List)
	case *parse.WithNode:
		c.branch(&n.BranchNode)
	case *parse.TemplateNode:
		if c.trees[n.Name] == nil {
			c.fail(n.Pos, "template %q is not defined; define it in this text, or write in place of it what it would hold", n.Name)
		}
		c.pipe(n.Pipe, false)
	}
}

// counted has each run of a list counted.
func counted(l *parse.ListNode) {
	pipe := &parse.PipeNode{NodeType: parse.NodePipe, Pos: l.Pos, Cmds: []*parse.CommandNode{call(l.Pos, "turn")}}
	l.Nodes = append([]parse.Node{&parse.ActionNode{NodeType: parse.NodeAction, Pos: l.Pos, Pipe: pipe}}, l.Nodes...)
}

func (c *compiler) branch(n *parse.BranchNode) {
	c.pipe(n.Pipe, false)
	c.node(n.List)
	c.node(n.ElseList)
}

// pipe goes through a pipeline from its end; soft tells that its value goes to
// default.
func (c *compiler) pipe(p *parse.PipeNode, soft bool) {
	if p == nil {
		return
	}
	for i := len(p.Cmds) - 1; i >= 0; i-- {
		soft = c.command(p.Cmds[i], i > 0, soft)
	}
}

// command returns whether what is piped into it goes to default, or through
// functions that keep null as it is.
func (c *compiler) command(cmd *parse.CommandNode, piped, soft bool) bool {
	id, ok := cmd.Args[0].(*parse.IdentifierNode)
	if !ok {
		for i, arg := range cmd.Args {
			cmd.Args[i] = c.operand(arg, soft)
		}
		return false
	}
	c.check(id, cmd.Args[1:], piped)
	name := id.Ident
	through := name == "default" || soft && functions[name].keepsNull
	for i := 1; i < len(cmd.Args); i++ {
		value := !piped && i == len(cmd.Args)-1
		cmd.Args[i] = c.operand(cmd.Args[i], value && through || name == "default" && soft)
	}
	return through
}

func (c *compiler) operand(n parse.Node, soft bool) parse.Node {
	switch n := n.(type) {
	case *parse.PipeNode:
		c.pipe(n, soft)
	case *parse.IdentifierNode:
		c.check(n, nil, false)
	case *parse.ChainNode:
		n.Node = c.operand(n.Node, soft)
		c.checkFact(n)
		if soft {
			return lookupNode(n.Pos, n.Node, n.Field)
		}
	case *parse.FieldNode:
		if soft {
			return lookupNode(n.Pos, &parse.DotNode{NodeType: parse.NodeDot, Pos: n.Pos}, n.Ident)
		}
	case *parse.VariableNode:
		if soft && len(n.Ident) > 1 {
			base := &parse.VariableNode{NodeType: parse.NodeVariable, Pos: n.Pos, Ident: n.Ident[:1]}
			return lookupNode(n.Pos, base, n.Ident[1:])
		}
	}
	return n
}

func (c *compiler) checkFact(n *parse.ChainNode) {
	if id, ok := n.Node.(*parse.IdentifierNode); !ok || id.Ident != "event" {
		return
	}
	if known := factNames(); !slices.Contains(known, n.Field[0]) {
		c.fail(n.Node.Position(), "event has no %s; %s", n.Field[0], nearest.Hint(n.Field[0], known))
	}
}

func factNames() []string {
	return slices.Sorted(maps.Keys(facts(&queue.Task{Event: &queue.Event{}})))
}

// check refuses a call that could only fail.
func (c *compiler) check(id *parse.IdentifierNode, args []parse.Node, piped bool) {
	f, ok := functions[id.Ident]
	if !ok && id.Ident == "payload" {
		c.fail(id.Pos, "the payload is the dot itself; write {{ .ref }}, not {{ payload.ref }}")
		return
	}
	if !ok {
		c.fail(id.Pos, "unknown function %s; %s", id.Ident, nearest.Hint(id.Ident, slices.Sorted(maps.Keys(functions))))
		return
	}
	if f.usage == "" {
		return
	}
	given := len(args)
	if piped {
		given++
	}
	if given != len(f.params) {
		c.fail(id.Pos, "%s: %d arguments, want %d; write %s", id.Ident, given, len(f.params), f.usage)
		return
	}
	for i, arg := range args {
		if !fits(arg, f.params[i]) {
			c.fail(arg.Position(), "%s: %s is not %s; write %s", id.Ident, arg, f.params[i], f.usage)
		}
	}
}

// fits judges what can be judged without a payload.
func fits(arg parse.Node, p param) bool {
	switch arg := arg.(type) {
	case *parse.NumberNode:
		return p == anyValue || p == wholeNumber && arg.IsInt
	case *parse.StringNode:
		return p == anyValue || p == someText && arg.Text != "" || p == anyText
	case *parse.BoolNode, *parse.NilNode:
		return p == anyValue
	}
	return true
}

func lookupNode(pos parse.Pos, base parse.Node, path []string) parse.Node {
	args := []parse.Node{base}
	for _, key := range path {
		args = append(args, quoted(pos, key))
	}
	return &parse.PipeNode{NodeType: parse.NodePipe, Pos: pos, Cmds: []*parse.CommandNode{call(pos, "lookup", args...)}}
}

func call(pos parse.Pos, function string, args ...parse.Node) *parse.CommandNode {
	args = append([]parse.Node{parse.NewIdentifier(function).SetPos(pos)}, args...)
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: pos, Args: args}
}

func quoted(pos parse.Pos, s string) *parse.StringNode {
	return &parse.StringNode{NodeType: parse.NodeString, Pos: pos, Quoted: strconv.Quote(s), Text: s}
}
