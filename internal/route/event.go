package route

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"orchestrate/internal/queue"
)

// eventFields are what a condition can ask of event. What the payload lacks is
// empty text, or 0.
var eventFields = map[string]eventField{
	"type":        {cel.StringType, func(e *queue.Event) ref.Val { return types.String(e.EventType) }},
	"action":      {cel.StringType, func(e *queue.Event) ref.Val { return types.String(e.Action) }},
	"repository":  {cel.StringType, func(e *queue.Event) ref.Val { return types.String(e.Repository) }},
	"sender":      {cel.StringType, func(e *queue.Event) ref.Val { return types.String(e.Sender) }},
	"ref":         {cel.StringType, func(e *queue.Event) ref.Val { return types.String(e.Ref) }},
	"number":      {cel.IntType, func(e *queue.Event) ref.Val { return types.Int(e.Number) }},
	"source":      {cel.StringType, func(e *queue.Event) ref.Val { return types.String(e.Source) }},
	"received_at": {cel.TimestampType, func(e *queue.Event) ref.Val { return types.Timestamp{Time: e.ReceivedAt.Std()} }},
}

type eventField struct {
	is  *cel.Type
	get func(*queue.Event) ref.Val
}

// eventType gives event a type of its own, so that a misspelt field is refused
// when the configuration is loaded. No condition can make one: the name has a
// character that no identifier has.
var eventType = cel.ObjectType("orchestrate-event")

// eventProvider is CEL's types, and that of event.
type eventProvider struct{ *types.Registry }

func (p eventProvider) FindStructType(name string) (*types.Type, bool) {
	if name == eventType.TypeName() {
		return types.NewTypeTypeWithParam(eventType), true
	}
	return p.Registry.FindStructType(name)
}

func (p eventProvider) FindStructFieldNames(name string) ([]string, bool) {
	if name == eventType.TypeName() {
		return slices.Sorted(maps.Keys(eventFields)), true
	}
	return p.Registry.FindStructFieldNames(name)
}

func (p eventProvider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if name != eventType.TypeName() {
		return p.Registry.FindStructFieldType(name, field)
	}
	f, ok := eventFields[field]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type: f.is,
		IsSet: func(target any) bool {
			e, ok := target.(*queue.Event)
			return ok && !isZero(f.get(e))
		},
		GetFrom: func(target any) (any, error) {
			e, ok := target.(*queue.Event)
			if !ok {
				return nil, fmt.Errorf("%T is no event", target)
			}
			return f.get(e), nil
		},
	}, true
}

func isZero(v ref.Val) bool {
	return v == types.String("") || v == types.Int(0)
}

// eventValue is an event as a condition sees it.
type eventValue struct{ e *queue.Event }

// Get is for an event whose type was lost on the way, as in dyn(event).
func (v eventValue) Get(name ref.Val) ref.Val {
	if f, ok := eventFields[fmt.Sprint(name.Value())]; ok {
		return f.get(v.e)
	}
	return types.NewErr("no such field: %v", name.Value())
}

func (v eventValue) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("event can't be converted to %v", t)
}

func (v eventValue) ConvertToType(t ref.Type) ref.Val {
	return types.NewErr("event can't be converted to %s", t.TypeName())
}
func (v eventValue) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(v)) }
func (v eventValue) Type() ref.Type              { return eventType }
func (v eventValue) Value() any                  { return v.e }
