package route

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"orchestrate/internal/queue"
)

// Predicate is one condition of a rule, and what became of it.
type Predicate struct {
	Name   string     `json:"name"`            // the key of the configuration
	Wanted []string   `json:"wanted"`          // one of these
	Actual string     `json:"actual"`          // empty where the event has none
	Held   bool       `json:"held"`            // false where it can't be told
	Error  queue.Text `json:"error"`           // why it can't be told
	Parts  []Part     `json:"parts,omitempty"` // of an "if"
}

// Part is a piece of a condition, and its value.
type Part struct {
	Text  string `json:"text"`
	Value string `json:"value"`
}

// maxParts bounds what is told of a condition.
const maxParts = 50

// Explain tells of each predicate of a rule whether the event meets it. All are
// told, those behind the first that does not hold, too. Nothing, when no rule has
// the name.
func (t *Table) Explain(route string, e *queue.Event, p *queue.Payload) []Predicate {
	r, ok := t.byName[route]
	if !ok {
		return nil
	}
	in := &input{event: e, payload: p}
	defer in.release()
	told := []Predicate{explain("on", r.items, func(p *Predicate) (bool, error) {
		p.Actual = string(queue.Clean(e.Kind()))
		return anyKind(r.kinds, e), nil
	})}
	for i := range r.filters {
		f := &r.filters[i]
		told = append(told, explain("filter."+facts[f.fact].key, f.wanted, func(p *Predicate) (bool, error) {
			values, _ := in.fact(f.fact)
			p.Actual = string(queue.Clean(strings.Join(values[:min(len(values), maxParts)], ", ")))
			return f.holds(in)
		}))
	}
	if r.cond != nil {
		told = append(told, explain("if", []string{r.cond.text}, func(p *Predicate) (held bool, err error) {
			held, p.Parts, err = r.cond.trace(in)
			if err == nil {
				p.Actual = fmt.Sprint(held)
			}
			return held, err
		}))
	}
	return told
}

// explain asks one predicate, and lives through its panic, as Match does.
func explain(name string, wanted []string, ask func(*Predicate) (bool, error)) (p Predicate) {
	p = Predicate{Name: name, Wanted: slices.Clone(wanted)}
	defer func() {
		if v := recover(); v != nil {
			p.Held, p.Error = false, queue.Clean(fmt.Sprintf("panic: %v", v))
		}
	}()
	held, err := ask(&p)
	p.Held = held && err == nil
	if err != nil {
		p.Error = queue.Clean(err.Error())
	}
	return p
}

// trace evaluates every part of the condition. The verdict is that of holds.
func (c *condition) trace(in *input) (bool, []Part, error) {
	held, err := c.holds(in)
	if in.doc == nil {
		return held, nil, err
	}
	traced, planErr := c.traced()
	if planErr != nil {
		return held, nil, err
	}
	_, details, _ := traced.Eval(in)
	if details == nil || details.State() == nil {
		return held, nil, err
	}
	tree := c.checked.NativeRep()
	t := &tracer{info: tree.SourceInfo(), state: details.State()}
	t.operands(ast.NavigateAST(tree))
	return held, t.parts, err
}

// tracer collects the parts of a condition that say why it is what it is: what
// is joined by && and ||, and what is read of event and payload.
type tracer struct {
	info  *ast.SourceInfo
	state interpreter.EvalState
	parts []Part
}

func (t *tracer) operands(e ast.NavigableExpr) {
	if e.Kind() == ast.CallKind && slices.Contains([]string{operators.LogicalAnd, operators.LogicalOr}, e.AsCall().FunctionName()) {
		for _, operand := range e.Children() {
			t.operands(operand)
		}
		return
	}
	t.add(e)
	t.reads(e)
}

func (t *tracer) reads(e ast.NavigableExpr) {
	if isPath(e) {
		t.add(e)
		return
	}
	for _, child := range e.Children() {
		t.reads(child)
	}
}

// isPath tells whether an expression leads from event or payload to a value.
func isPath(e ast.Expr) bool {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent() == "event" || e.AsIdent() == "payload"
	case ast.SelectKind:
		return isPath(e.AsSelect().Operand())
	case ast.CallKind:
		call := e.AsCall()
		return slices.Contains([]string{operators.Index, operators.OptIndex, operators.OptSelect}, call.FunctionName()) &&
			isPath(call.Args()[0])
	default:
		return false
	}
}

func (t *tracer) add(e ast.Expr) {
	v, ok := t.state.Value(e.ID())
	text, err := cel.ExprToString(e, t.info)
	if !ok || err != nil || e.Kind() == ast.LiteralKind || len(t.parts) >= maxParts {
		return
	}
	part := Part{Text: string(queue.Clean(text)), Value: string(queue.Clean(show(v)))}
	if !slices.Contains(t.parts, part) {
		t.parts = append(t.parts, part)
	}
}

// show is a value in the form that a condition would have it in; what is large is
// told by its size.
func show(v ref.Val) string {
	switch v := v.(type) {
	case *types.Err:
		return "error: " + v.String()
	case *types.Optional:
		if !v.HasValue() {
			return "none"
		}
		return show(v.GetValue())
	case traits.Mapper:
		return fmt.Sprintf("object of %d members", v.Size().Value())
	case traits.Lister:
		return showList(v)
	case eventValue:
		return v.e.Kind()
	default:
		return types.Format(v)
	}
}

func showList(l traits.Lister) string {
	var items []string
	for it := l.Iterator(); it.HasNext() == types.True; {
		v := it.Next()
		_, isMap := v.(traits.Mapper)
		_, isList := v.(traits.Lister)
		if isMap || isList || len(items) == maxParts {
			return fmt.Sprintf("list of %d", l.Size().Value())
		}
		items = append(items, show(v))
	}
	return "[" + strings.Join(items, ", ") + "]"
}
