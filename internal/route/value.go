package route

import (
	"fmt"
	"math"
	"reflect"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// longText is where decoding a text or a number once more gets dearer than
// keeping it, in bytes: no condition may make a large payload slow by asking
// again and again.
const longText = 1 << 10

// value is a node as a condition sees it. Objects, lists and long texts are made
// once a document, so that what they have found out about themselves is kept.
func (d *document) value(n int) ref.Val {
	switch d.kind(n) {
	case 't':
		return types.True
	case 'f':
		return types.False
	case 'n':
		return types.NullValue
	}
	if v, ok := d.values[n]; ok {
		return v
	}
	switch d.kind(n) {
	case '"':
		s, _ := d.string(n)
		return d.keep(n, types.String(s), len(s) > longText)
	case '{':
		return d.keep(n, &object{d: d, n: n}, true)
	case '[':
		var items []ref.Val
		for c := range d.children(n) {
			items = append(items, d.value(c))
		}
		return d.keep(n, types.NewRefValList(types.DefaultTypeAdapter, items), true)
	default:
		s := d.raw(n)
		return d.keep(n, number(s), len(s) > longText)
	}
}

func (d *document) keep(n int, v ref.Val, worth bool) ref.Val {
	if !worth {
		return v
	}
	if d.values == nil {
		d.values = map[int]ref.Val{}
	}
	d.values[n] = v
	return v
}

// number keeps a whole number whole while it fits 64 bits. What is larger, or
// has a fraction or an exponent, is a double.
func number(s string) ref.Val {
	if len(s) <= len("-9223372036854775808") { // strconv copies what it refuses
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			return types.Int(i)
		}
		if u, err := strconv.ParseUint(s, 10, 64); err == nil {
			return types.Uint(u)
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return types.NewErr("payload: %q is no number", s)
	}
	return types.Double(f)
}

// object is an object of the payload as CEL's map. Whoever asks for a few
// members of it, as nearly every condition does, pays for those only.
type object struct {
	d   *document
	n   int
	all traits.Mapper // every member, once that was needed
}

// manyMembers is where looking names up one by one gets dearer than a map.
const manyMembers = 256

var _ traits.Mapper = (*object)(nil)

// Find looks a member up. Only text names one, so that nothing else is found.
func (o *object) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	if o.all != nil || int(o.d.nodes[o.n].next)-o.n > manyMembers && o.isLarge() {
		return o.members().Find(name)
	}
	c := o.d.member(o.n, string(name))
	if c == none {
		return nil, false
	}
	return o.d.value(c), true
}

func (o *object) isLarge() bool {
	count := 0
	for range o.d.children(o.n) {
		if count++; count > manyMembers {
			return true
		}
	}
	return false
}

func (o *object) members() traits.Mapper {
	if o.all == nil {
		all := map[string]ref.Val{}
		for c := range o.d.children(o.n) {
			all[o.d.name(c)] = o.d.value(c)
		}
		o.all = types.NewMap(types.DefaultTypeAdapter, all)
	}
	return o.all
}

// Iterator goes in the order of the payload, for answers that are the same each
// time; CEL's own maps go in Go's random order.
func (o *object) Iterator() traits.Iterator {
	var names []ref.Val
	seen := map[string]bool{}
	for c := range o.d.children(o.n) {
		if name := o.d.name(c); !seen[name] {
			seen[name] = true
			names = append(names, types.String(name))
		}
	}
	return types.NewRefValList(types.DefaultTypeAdapter, names).Iterator()
}

func (o *object) Get(key ref.Val) ref.Val {
	v, ok := o.Find(key)
	if !ok {
		return types.NewErr("no such key: %v", key.Value())
	}
	return v
}

func (o *object) Contains(key ref.Val) ref.Val {
	_, ok := o.Find(key)
	return types.Bool(ok)
}

// What is left is as the map of all members has it.

func (o *object) Size() ref.Val                    { return o.members().Size() }
func (o *object) Equal(other ref.Val) ref.Val      { return o.members().Equal(other) }
func (o *object) ConvertToType(t ref.Type) ref.Val { return o.members().ConvertToType(t) }
func (o *object) Type() ref.Type                   { return types.MapType }
func (o *object) Value() any                       { return o.members().Value() }
func (o *object) ConvertToNative(t reflect.Type) (any, error) {
	v, err := o.members().ConvertToNative(t)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return v, nil
}
