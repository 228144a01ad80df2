package route

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/common/types/ref"

	"orchestrate/internal/queue"
)

// document is a payload that is read where somebody looks. One pass finds where
// each value begins; text and numbers are decoded when they are asked for, and
// filters and conditions share what is found.
//
// The reading is that of encoding/json into a map: the last of members with one
// name counts, names are compared with case, numbers keep their digits, and what
// is no Unicode is U+FFFD.
//
// A pull request of 10 KB takes 5 µs to index and less than 1 to read a field or two
// of; encoding/json with UseNumber takes 150 µs; gjson, one level at a time, 12
// µs for a field of the second level, since each level passes over the text again
// (BenchmarkDocument). There is no check: intake has refused what is no JSON.
// Reading other bytes yields nonsense, but ends and does not panic.
//
// Not safe for concurrent use: a document belongs to one match.
type document struct {
	text   []byte
	nodes  []node // in the order of the text, the root first
	room   *[]node
	values map[int]ref.Val // the objects and lists that conditions have seen
}

var errTooManyValues = fmt.Errorf("payload: over %d values, more than filters and conditions look into", queue.MaxValues)

// node is one value. A document is at most 26 MB, so that 32 bits do.
type node struct {
	key  int32 // where the name of a member begins, at its quote; -1 for others
	at   int32 // where the value begins
	next int32 // the node behind this value and all that is in it
}

const none = -1 // no such node

// index finds the values. Whatever is no string, bracket or separator begins a
// number or a word.
func index(text []byte) (*document, error) {
	room, ok := rooms.Get().(*[]node)
	if !ok {
		room = new([]node)
	}
	nodes := slices.Grow((*room)[:0], min(len(text)/24+8, queue.MaxValues)) // GitHub has a value in 35 bytes
	var open []int32
	key := int32(none)
	for i := 0; i < len(text); {
		at := i
		switch text[i] {
		case ' ', '\t', '\r', '\n', ',', ':':
			i++
			continue
		case '}', ']':
			i++
			if n := len(open); n > 0 {
				nodes[open[n-1]].next = int32(len(nodes)) //nolint:gosec // a body is at most 26 MB
				open = open[:n-1]
			}
			continue
		case '{', '[':
			i++
			open = append(open, int32(len(nodes))) //nolint:gosec // a body is at most 26 MB
		case '"':
			i = stringEnd(text, i)
			if i < len(text) && (text[i] == ':' || text[i] <= ' ' && startsWith(text, i, ':')) {
				key = int32(at)
				i++
				continue
			}
		default:
			i = wordEnd(text, i)
		}
		if len(nodes) == queue.MaxValues {
			return nil, errTooManyValues // the room is not worth keeping
		}
		nodes = append(nodes, node{key, int32(at), int32(len(nodes) + 1)}) //nolint:gosec // a body is at most 26 MB
		key = none
	}
	for _, n := range open { // broken off
		nodes[n].next = int32(len(nodes)) //nolint:gosec // as above
	}
	*room = nodes
	return &document{text: text, nodes: nodes, room: room}, nil
}

// rooms keeps the lists of nodes for the next document: making one takes as long
// as filling it.
var rooms sync.Pool

const maxRoom = 1 << 16 // nodes; 768 KiB

// release gives back what the document holds. Nothing may look at it any more.
func (d *document) release() {
	if cap(*d.room) <= maxRoom {
		rooms.Put(d.room)
	}
	*d = document{}
}

// stringEnd is the index behind the string that begins at i.
func stringEnd(text []byte, i int) int {
	for i++; ; {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			return len(text)
		}
		i += n + 1
		if text[i-2] != '\\' {
			return i
		}
		slashes := 1
		for text[i-2-slashes] == '\\' { // ends at the opening quote
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}

func wordEnd(text []byte, i int) int {
	for ; i < len(text); i++ {
		switch text[i] {
		case ' ', '\t', '\r', '\n', ',', ':', '}', ']', '{', '[', '"':
			return i
		}
	}
	return i
}

func startsWith(text []byte, i int, c byte) bool {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r' || text[i] == '\n') {
		i++
	}
	return i < len(text) && text[i] == c
}

// kind is the first byte of a value: { [ " t f n, or a digit or - for a number.
func (d *document) kind(n int) byte {
	if n < 0 || n >= len(d.nodes) {
		return 0
	}
	return d.text[d.nodes[n].at]
}

// children are the nodes of an object's or a list's items, in order.
func (d *document) children(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		if k := d.kind(n); k != '{' && k != '[' {
			return
		}
		for c := n + 1; c < int(d.nodes[n].next); c = int(d.nodes[c].next) {
			if !yield(c) {
				return
			}
		}
	}
}

// member is the node of an object's member, or none.
func (d *document) member(n int, name string) int {
	found := none
	if d.kind(n) != '{' {
		return found
	}
	for c := n + 1; c < int(d.nodes[n].next); c = int(d.nodes[c].next) {
		if d.named(c, name) {
			found = c
		}
	}
	return found
}

// named compares as the name stands in the text, up to what may be written in
// another way: an escape, or bytes that are no Unicode. A name that is written
// too long for that is not decoded: it could be as large as the payload.
func (d *document) named(n int, name string) bool {
	at := int(d.nodes[n].key)
	if at < 0 {
		return false
	}
	raw := d.text[at+1:]
	for i := range len(name) + 1 {
		switch {
		case i == len(raw):
			return false
		case raw[i] == '\\' || raw[i] >= utf8.RuneSelf:
			return d.endsBy(at, at+1+i+maxEscape*(len(name)-i)) && d.name(n) == name
		case i == len(name):
			return raw[i] == '"'
		case raw[i] != name[i]:
			return false
		}
	}
	return false
}

// maxEscape is what a byte of a text may be written in: \u0061.
const maxEscape = 6

// endsBy tells whether the string that begins at i is closed at end at the
// latest, by looking no further.
func (d *document) endsBy(i, end int) bool {
	if end+1 >= len(d.text) {
		return true
	}
	return stringEnd(d.text[:end+2], i) <= end+1
}

// at follows names from the root.
func (d *document) at(names ...string) int {
	n := 0
	for _, name := range names {
		n = d.member(n, name)
	}
	return n
}

// name is that of a member; what is none has an empty one.
func (d *document) name(n int) string {
	at := int(d.nodes[n].key)
	if at < 0 {
		return ""
	}
	return unquote(d.text[at:stringEnd(d.text, at)])
}

// string is a text; of any other value there is none.
func (d *document) string(n int) (string, bool) {
	if d.kind(n) != '"' {
		return "", false
	}
	at := int(d.nodes[n].at)
	return unquote(d.text[at:stringEnd(d.text, at)]), true
}

// raw is a number or a word, as it stands.
func (d *document) raw(n int) string {
	if k := d.kind(n); k == 0 || k == '{' || k == '[' || k == '"' {
		return ""
	}
	at := int(d.nodes[n].at)
	return string(d.text[at:wordEnd(d.text, at)])
}

func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return strings.Trim(string(raw), `"`)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
