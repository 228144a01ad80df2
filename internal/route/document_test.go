package route

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/google/go-cmp/cmp"
)

// decode is the whole of a document, by its own readings.
func (d *document) decode(n int) any {
	switch d.kind(n) {
	case '{':
		m := map[string]any{}
		for c := range d.children(n) {
			if name := d.name(c); d.member(n, name) == c {
				m[name] = d.decode(c)
			}
		}
		return m
	case '[':
		l := []any{}
		for c := range d.children(n) {
			l = append(l, d.decode(c))
		}
		return l
	case '"':
		s, _ := d.string(n)
		return s
	case 't', 'f':
		return d.raw(n) == "true"
	case 'n':
		return nil
	default:
		return json.Number(d.raw(n))
	}
}

func standard(t testing.TB, text []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("decode %s: %v", text, err)
	}
	return v
}

func indexed(t testing.TB, text []byte) *document {
	t.Helper()
	d, err := index(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// FuzzDocument compares with encoding/json; of what is no JSON it wants an end,
// and no panic.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{"a":{"b":[1,2.50,-3e4,"x",null,true,false]},"c":{}}`,
		`{"a":1,"a":2,"A":3}`,
		`{"a":{"x":1},"a":{"y":2}}`,
		`{"\u0061":1, "a\"b" : "\\", "\\":"\"", "é\ud83d\ude00":"\ud800"}`,
		"{\"a\xff\":\"\xff\", \"a\ufffd\":2}",
		" [ 1 , [ ] , { } , \"\" ]\n",
		`{"id":9007199254740993,"u":18446744073709551615,"h":18446744073709551616,"z":-0,"f":1.0}`,
		`{"a":"b","c":[1,{"d":"e"}`, `}]{"`, `"a`, `{"a":"\`, `{"a" "b" 1 2}`, ``, `7`, `"\\\\"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := index(text)
		if err != nil {
			return // has too many values
		}
		defer d.release()
		if len(d.nodes) == 0 {
			return
		}
		if got := d.decode(0); json.Valid(text) {
			if diff := cmp.Diff(standard(t, text), got); diff != "" {
				t.Errorf("document %q (-encoding/json +index):\n%s", text, diff)
			}
		}
		walk(d.value(0), 0)
	})
}

// walk looks at every value as CEL would.
func walk(v ref.Val, depth int) {
	if l, ok := v.(traits.Iterable); ok && depth < 100 {
		for it := l.Iterator(); it.HasNext() == types.True; {
			item := it.Next()
			if m, ok := v.(traits.Mapper); ok {
				item = m.Get(item)
			}
			walk(item, depth+1)
		}
	}
}

func TestDocumentValues(t *testing.T) {
	tests := []struct {
		json string
		want ref.Val
	}{
		{`9007199254740993`, types.Int(9007199254740993)},
		{`9223372036854775807`, types.Int(9223372036854775807)},
		{`-9223372036854775808`, types.Int(-9223372036854775808)},
		{`9223372036854775808`, types.Uint(9223372036854775808)},
		{`18446744073709551615`, types.Uint(18446744073709551615)},
		{`18446744073709551616`, types.Double(18446744073709551616)},
		{`1.0`, types.Double(1)},
		{`1e2`, types.Double(100)},
		{`-0`, types.Int(0)},
		{`"é\n\u00e9"`, types.String("é\né")},
		{`true`, types.True},
		{`false`, types.False},
		{`null`, types.NullValue},
	}
	for _, tt := range tests {
		for _, text := range []string{tt.json, `{"a":[` + tt.json + `]}`} {
			d := indexed(t, []byte(text))
			n := 0
			if d.kind(0) == '{' {
				n = d.at("a") + 1
			}
			if got := d.value(n); got.Equal(tt.want) != types.True || got.Type() != tt.want.Type() {
				t.Errorf("value of %s = %v %v, want %v %v", text, got.Type(), got, tt.want.Type(), tt.want)
			}
		}
	}
}

// An object of many members is looked up in a map; the answers are the same.
func TestLargeObject(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"k0":"first"`)
	for i := range 2 * manyMembers {
		b.WriteString(`,"k` + string(rune('0'+i%10)) + `":` + string(rune('0'+i%7)))
	}
	b.WriteString(`,"k0":"last"}`)
	d := indexed(t, b.Bytes())
	o, ok := d.value(0).(*object)
	if !ok {
		t.Fatalf("value = %T, want an object", d.value(0))
	}
	if got := o.Get(types.String("k0")); got != types.String("last") {
		t.Errorf("k0 = %v, want the last of the members with that name", got)
	}
	if o.all == nil {
		t.Error("a large object was looked through name by name")
	}
	if got := o.Size(); got != types.Int(10) {
		t.Errorf("size = %v, want 10", got)
	}
	if got := o.Contains(types.Int(1)); got != types.False {
		t.Errorf("contains 1 = %v, want false", got)
	}
	names := 0
	for it := o.Iterator(); it.HasNext() == types.True; it.Next() {
		names++
	}
	if names != 10 {
		t.Errorf("iterates over %d names, want 10", names)
	}
}

// However a name is written, it is found; one that is too long for what is
// sought is not decoded, and a long text is decoded once.
func TestLongTexts(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	for name, text := range map[string]string{
		"a":           `{"\u0061":7}`,
		"a\"b":        `{"a\"b":7}`,
		"\"":          `{"\u0022":7}`,
		"é":           `{"\u00e9":7}`,
		"\U0001f600x": `{"\ud83d\ude00\u0078":7}`,
		"\ufffd":      "{\"\xff\":7}",
		"\ufffda":     `{"\ud800\u0061":7}`,
	} {
		for _, d := range []*document{indexed(t, []byte(text)), indexed(t, []byte(text[:len(text)-1]+`,"z":"`+long+`"}`))} {
			if got := d.raw(d.member(0, name)); got != "7" {
				t.Errorf("%q in %.30s: %q, want 7", name, text, got)
			}
		}
	}
	d := indexed(t, []byte(`{"\u0061`+long+`":1,"\"`+long+`":2,"b":"\u0061`+long+`","n":`+strings.Repeat("9", 2000)+`}`))
	if n := testing.AllocsPerRun(10, func() { d.member(0, "c") }); n != 0 {
		t.Errorf("looking for a name takes %v allocations, want 0", n)
	}
	for _, name := range []string{"b", "n"} {
		n := d.member(0, name)
		d.value(n)
		if allocs := testing.AllocsPerRun(10, func() { d.value(n) }); allocs != 0 {
			t.Errorf("looking at %s again takes %v allocations, want 0", name, allocs)
		}
	}
}
