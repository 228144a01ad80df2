package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"orchestrate/internal/nearest"
	"orchestrate/internal/queue"
)

// What a condition may be and take.
const (
	maxCondition = 16 << 10    // bytes of its text
	maxNesting   = 64          // levels of brackets and calls
	maxNodes     = 10_000      // parts of it, macros written out
	maxRegexp    = 10_000      // instructions of one regular expression
	maxTime      = time.Second // for payloads that are not small: a step may be to count the characters of a text
	smallPayload = 64 << 10    // bytes
	maxCost      = 250_000     // steps, as CEL counts them: about one a name, a comparison or a call; 10 to 20 ms; see bounds, too
)

// condition is an "if". Nothing that it can call does I/O, and nothing depends on
// the time at which it is asked.
type condition struct {
	text    string
	checked *cel.Ast
	program cel.Program
	traced  func() (cel.Program, error) // the same, leaving a record of every part
}

// language is what conditions are written in. An extension is here because
// conditions over webhooks are hard to write without it.
var language = sync.OnceValues(func() (*cel.Env, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	return cel.NewEnv(
		cel.CustomTypeProvider(eventProvider{registry}),
		cel.Variable("event", eventType),
		cel.Variable("payload", cel.DynType),
		cel.OptionalTypes(), cel.EnableMacroCallTracking(), cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		ext.Strings(), ext.Lists(), ext.Sets(), ext.Bindings(),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
		cel.ParserExpressionSizeLimit(maxCondition), cel.ParserRecursionLimit(maxNesting),
		cel.ExpressionNodeLimit(maxNodes), cel.RegexProgramSizeLimit(maxRegexp), cel.ParserErrorRecoveryLimit(5),
	)
})

// compileCondition checks a condition. Every error is a *queue.FieldError with
// line and column, except for those of the whole text.
func compileCondition(text string) (c *condition, errs []*queue.FieldError) {
	defer func() { // a reload must survive what the compiler may not
		if v := recover(); v != nil {
			c, errs = nil, conditionError(fmt.Errorf("can't be compiled: panic: %v", v))
		}
	}()
	env, err := language()
	if err != nil {
		return nil, conditionError(err)
	}
	switch {
	case len(text) > maxCondition:
		return nil, conditionError(fmt.Errorf("%d bytes long, more than %d; make several routes of it", len(text), maxCondition))
	case !utf8.ValidString(text):
		return nil, conditionError(errors.New("not in UTF-8"))
	case strings.TrimSpace(text) == "":
		return nil, conditionError(errors.New(`empty; write a condition, as in '!payload.pull_request.draft', or leave it out`))
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, located(env, text, nil, issues)
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, located(env, text, parsed, issues)
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, conditionError(fmt.Errorf("yields %s, want true or false, as in 'payload.number > 100'", cel.FormatCELType(out)))
	}
	return plan(env, text, checked)
}

func plan(env *cel.Env, text string, checked *cel.Ast) (*condition, []*queue.FieldError) {
	if least, err := env.EstimateCost(checked, unknownSizes{}); err == nil && least.Min > maxCost {
		return nil, conditionError(fmt.Errorf("costs at least %d steps, more than the limit of %d: it could never be evaluated", least.Min, maxCost))
	}
	program, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost),
		cel.InterruptCheckFrequency(100), cel.CustomDecoratorV2(boundCalls(env)))
	if err != nil {
		return nil, conditionError(err)
	}
	return &condition{
		text: text, checked: checked, program: program,
		traced: sync.OnceValues(func() (cel.Program, error) {
			return env.Program(checked, cel.EvalOptions(cel.OptExhaustiveEval), cel.CostLimit(maxCost), cel.CustomDecoratorV2(boundCalls(env)))
		}),
	}, nil
}

func conditionError(err error) []*queue.FieldError {
	return []*queue.FieldError{{Field: "if", Err: err}}
}

// unknownSizes leaves it to CEL to guess: only what is certain is refused.
type unknownSizes struct{}

func (unknownSizes) EstimateSize(cost.AstNode) *cost.SizeEstimate { return nil }

func (unknownSizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// located makes errors of CEL's issues. Behind a first error of syntax there is
// noise only, and so it is at one place.
func located(env *cel.Env, text string, parsed *cel.Ast, issues *cel.Issues) []*queue.FieldError {
	var told []*queue.FieldError
	noise := withinUnknown(env, parsed)
	for _, issue := range issues.Errors() {
		if noise[issue.ExprID] {
			continue
		}
		line, column := issue.Location.Line(), max(1, issue.Location.Column()+1) // CEL knows places without a column
		if line < 1 {
			line, column = 0, 0
		}
		e := &queue.FieldError{Field: "if", Line: line, Column: column}
		message, back := undeclared(env, parsed, issue.ExprID)
		if message == "" {
			back = 0
			message = queue.Cut(queue.Printable(plainly(issue.Message, literal(parsed, issue.ExprID))), maxMessage)
		}
		if parsed == nil {
			e.Err = errors.New(message + slip(text, line, column))
			return []*queue.FieldError{e}
		}
		e.Err, e.Column = errors.New(message), max(min(1, column), column-back)
		if !slices.ContainsFunc(told, func(o *queue.FieldError) bool { return o.Line == e.Line && o.Column == e.Column }) {
			told = append(told, e)
		}
	}
	return told
}

// slip is a hint at what other languages have and CEL has not.
func slip(text string, line, column int) string {
	lines := strings.Split(text, "\n")
	if line < 1 || line > len(lines) || column < 1 {
		return ""
	}
	runes := []rune(lines[line-1])
	column = min(column-1, len(runes))
	before, behind := strings.Fields(string(runes[:column])), strings.Fields(string(runes[column:]))
	words := append(before[max(0, len(before)-1):], behind[:min(1, len(behind))]...)
	for _, w := range words {
		for not, but := range map[string]string{"and": "&&", "or": "||", "not": "!", "=": "==", "<>": "!=", "===": "=="} {
			if w == not {
				return fmt.Sprintf(" (it is %s in CEL, not %s)", but, not)
			}
		}
	}
	return ""
}

const maxMessage = 500 // bytes of an error of CEL's that are shown

// undeclared tells of a name that nothing has, with the nearest that something
// has, and how far before CEL's place it begins; empty when the part of the
// condition is wrong in another way. CEL's own message names Go options that
// could be set.
func undeclared(env *cel.Env, parsed *cel.Ast, id int64) (message string, back int) {
	found := part(parsed, id)
	if found == nil {
		return "", 0
	}
	if found.Kind() == ast.CallKind { // its place is that of the bracket
		name := found.AsCall().FunctionName()
		return unknownFunction(env, name), utf8.RuneCountInString(name)
	}
	for e := found; ; e = e.AsSelect().Operand() {
		switch {
		case e.Kind() == ast.IdentKind:
			return unknownVariable(e.AsIdent()), 0
		case e.Kind() != ast.SelectKind:
			return "", 0
		case e.AsSelect().Operand().Kind() == ast.IdentKind && e.AsSelect().Operand().AsIdent() == "event":
			return unknownField(e.AsSelect().FieldName()), -1 // its place is that of the dot
		}
	}
}

// part is the part of a condition that has an id; nil if none has.
func part(parsed *cel.Ast, id int64) (found ast.Expr) {
	if parsed == nil {
		return nil
	}
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == id {
			found = e
		}
	}))
	return found
}

// withinUnknown are the parts of the arguments of functions that nobody knows:
// what is wrong with those tends to be so because the function is no macro.
func withinUnknown(env *cel.Env, parsed *cel.Ast) map[int64]bool {
	if parsed == nil {
		return nil
	}
	noise := map[int64]bool{}
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || env.HasFunction(e.AsCall().FunctionName()) {
			return
		}
		for _, arg := range e.AsCall().Args() {
			ast.PreOrderVisit(arg, ast.NewExprVisitor(func(e ast.Expr) { noise[e.ID()] = true }))
		}
	}))
	return noise
}

// literal is the text that a part of a condition is; empty if it is none.
func literal(parsed *cel.Ast, id int64) string {
	if e := part(parsed, id); e != nil && e.Kind() == ast.LiteralKind {
		if s, ok := e.AsLiteral().(types.String); ok {
			return string(s)
		}
	}
	return ""
}

func unknownFunction(env *cel.Env, name string) string {
	if env.HasFunction(name) {
		return ""
	}
	var known []string
	for f := range env.Functions() {
		if isWord(f) {
			known = append(known, f)
		}
	}
	for _, m := range env.Macros() {
		known = append(known, m.Function())
	}
	slices.Sort(known)
	known = slices.Compact(known)
	best, ok := elsewhere[name]
	if !ok {
		best, ok = nearest.Word(name, known)
	}
	if ok {
		return fmt.Sprintf("there is no function %q; did you mean %s?", name, best)
	}
	return fmt.Sprintf("there is no function %q; those there are: %s", name, strings.Join(known, ", "))
}

// isWord leaves operators out, which CEL names in its own way: _&&_, @in.
func isWord(name string) bool {
	return name != "" && (name[0] >= 'a' && name[0] <= 'z' || name[0] >= 'A' && name[0] <= 'Z')
}

func unknownVariable(name string) string {
	if name == "event" || name == "payload" {
		return ""
	}
	hint := nearest.Hint(name, []string{"event", "payload"})
	if _, ok := eventFields[name]; ok {
		hint = "did you mean event." + name + "?"
	}
	return fmt.Sprintf("there is no variable %q; %s", name, hint)
}

func unknownField(name string) string {
	if _, ok := eventFields[name]; ok {
		return ""
	}
	return fmt.Sprintf("event has no field %q; %s", name, nearest.Hint(name, slices.Sorted(maps.Keys(eventFields))))
}

// holds evaluates the condition.
func (c *condition) holds(in *input) (bool, error) {
	if _, err := in.document(); err != nil {
		return false, fmt.Errorf("if: %w", err)
	}
	if len(in.doc.text) <= smallPayload {
		out, _, err := c.program.Eval(in)
		return verdict(out, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	return c.holdsWithin(ctx, in)
}

func (c *condition) holdsWithin(ctx context.Context, in *input) (bool, error) {
	out, _, err := c.program.ContextEval(ctx, in)
	if ctx.Err() != nil && err != nil {
		return false, fmt.Errorf("if: broken off after %s", maxTime)
	}
	return verdict(out, err)
}

func verdict(out ref.Val, err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("if: %s", queue.Clean(err.Error()))
	}
	answer, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("if: yields %s, want true or false", out.Type().TypeName())
	}
	return bool(answer), nil
}
