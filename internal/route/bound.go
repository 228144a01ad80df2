package route

import (
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// What calls may take. CEL counts what a call has cost when it has returned,
// which those whose work is the product of two things of outsiders would not do
// for hours.
const (
	maxReplaced = 1 << 20  // bytes that a replace may make
	maxMatched  = 1 << 20  // bytes of a text that a pattern is sought in
	maxStrange  = 16 << 10 // the same, where the payload has the pattern, too, which may have maxRegexp instructions
	maxSplit    = 10 * maxCost
	maxSought   = 100 * maxCost // pairs of bytes
	maxCompared = maxCost       // pairs of items
)

// bounds look at a call before it is done. Every other function takes and makes
// at most the sum of what it is given.
var bounds = map[string]func(args []ref.Val) error{
	"replace": boundReplace, "split": boundSplit, "indexOf": boundSought, "lastIndexOf": boundSought,
	"distinct": boundSelf, "sort": boundSelf, "@sortByAssociatedKeys": boundSelf,
	"hasAll": boundBoth, "hasAny": boundBoth, "hasExactly": boundBoth, "hasOnly": boundBoth,
	"sets.contains": boundBoth, "sets.equivalent": boundBoth, "sets.intersects": boundBoth,
}

// boundCalls puts the bounds before the calls of a condition.
func boundCalls(env *cel.Env) interpreter.InterpretableDecoratorV2 {
	return func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		call, ok := i.(interpreter.InterpretableCall)
		if !ok {
			return i, nil
		}
		bound, bounded := bounds[call.Function()]
		if !bounded && call.Function() != "matches" {
			return i, nil
		}
		do, err := implementation(env, call)
		if err != nil {
			return nil, err
		}
		if !bounded {
			return boundMatches(call, do), nil
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
			if err := bound(args); err != nil {
				return types.NewErr("%s: %w", call.Function(), err)
			}
			return do(args...)
		}), nil
	}
}

// implementation is what a call does, with as many arguments as it has. One that
// serves all overloads has the name of the function.
func implementation(env *cel.Env, call interpreter.InterpretableCall) (functions.FunctionOp, error) {
	overloads, err := env.Functions()[call.Function()].Bindings()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{call.OverloadID(), call.Function()} {
		for _, o := range overloads {
			if do := operation(o, len(call.Args())); o.Operator == name && do != nil {
				return do, nil
			}
		}
	}
	return nil, fmt.Errorf("no implementation of %s with %d arguments", call.Function(), len(call.Args()))
}

func operation(o *functions.Overload, args int) functions.FunctionOp {
	switch {
	case args == 1 && o.Unary != nil:
		return func(args ...ref.Val) ref.Val { return o.Unary(args[0]) }
	case args == 2 && o.Binary != nil:
		return func(args ...ref.Val) ref.Val { return o.Binary(args[0], args[1]) }
	}
	return o.Function
}

// boundMatches bounds the text alone, and leaves a call that CEL still takes for
// one of matches: it compiles a constant pattern once, and bounds any other.
func boundMatches(call interpreter.InterpretableCall, do functions.FunctionOp) interpreter.InterpretableV2 {
	most := maxMatched
	if _, constant := call.Args()[1].(interpreter.InterpretableConst); !constant {
		most = maxStrange
	}
	args := []interpreter.InterpretableV2{&boundedText{call.Args()[0], most}, call.Args()[1]}
	return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), args, do)
}

// boundedText is a part of a condition whose text must not be longer.
type boundedText struct {
	interpreter.InterpretableV2
	most int
}

// Exec implements interpreter.InterpretableV2.
func (b *boundedText) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v := b.InterpretableV2.Exec(frame)
	if n := length(v); n > b.most {
		return types.NewErr("matches: a text of %d bytes, more than %d", n, b.most)
	}
	return v
}

func boundReplace(args []ref.Val) error {
	if len(args) < 3 {
		return nil
	}
	places := length(args[0]) + 1 // an empty text is found between all characters
	if n := length(args[1]); n > 0 {
		places = length(args[0]) / n
	}
	if length(args[0])+places*length(args[2]) > maxReplaced {
		return fmt.Errorf("could make more than %d bytes", maxReplaced)
	}
	return nil
}

func boundSplit(args []ref.Val) error {
	if n := length(args[0]); n > maxSplit {
		return fmt.Errorf("a text of %d bytes, more than %d", n, maxSplit)
	}
	return nil
}

func boundSought(args []ref.Val) error {
	if n, m := length(args[0]), length(args[1]); n*m > maxSought {
		return fmt.Errorf("a text of %d bytes in one of %d, whose product is more than %d", m, n, maxSought)
	}
	return nil
}

func boundSelf(args []ref.Val) error { return boundBoth([]ref.Val{args[0], args[0]}) }

func boundBoth(args []ref.Val) error {
	if n, m := length(args[0]), length(args[1]); n*m > maxCompared {
		return fmt.Errorf("%d items with %d, whose product is more than %d", n, m, maxCompared)
	}
	return nil
}

// length is the bytes of a text, or the items of a list; 0 of anything else.
func length(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v)
	case traits.Lister:
		n, _ := v.Size().(types.Int)
		return int(n)
	}
	return 0
}
