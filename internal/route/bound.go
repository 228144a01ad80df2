package route

import (
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// maxReplaced bounds what one replace may make, in bytes.
const maxReplaced = 1 << 20

// boundReplace looks at a replace before it is done: CEL counts what a call cost
// when it has returned, and what this one makes is the product of two texts of
// outsiders. Every other function makes at most the sum of what it is given.
func boundReplace(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if call, ok := i.(interpreter.InterpretableCall); ok && call.Function() == "replace" {
		return &replaceCall{call}, nil
	}
	return i, nil
}

type replaceCall struct{ interpreter.InterpretableCall }

// Exec implements interpreter.InterpretableV2.
func (c *replaceCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	var sizes [3]int // of the text, what is sought, and what takes its place
	for i, arg := range c.Args()[:len(sizes)] {
		s, ok := arg.Exec(frame).(types.String)
		if !ok {
			return c.InterpretableCall.Exec(frame) // which says why not
		}
		sizes[i] = len(s)
	}
	places := sizes[0] + 1 // an empty text is found between all characters
	if sizes[1] > 0 {
		places = sizes[0] / sizes[1]
	}
	if sizes[0]+places*sizes[2] > maxReplaced {
		return types.NewErr("replace: could make more than %d bytes", maxReplaced)
	}
	return c.InterpretableCall.Exec(frame)
}
