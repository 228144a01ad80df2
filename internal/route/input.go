package route

import (
	"orchestrate/internal/queue"

	"cel.dev/cel-go/cel"
)

// input is an event that rules are asked about. What one of them reads of the
// payload is kept for the others. Not safe for concurrent use.
type input struct {
	event   *queue.Event
	payload *queue.Payload
	doc     *document
	err     error // of the payload: it is no JSON
	known   uint  // bit i: values[i] is read
	values  [16][]string
}

// document is the payload, indexed when it is first asked for.
func (in *input) document() (*document, error) {
	if in.doc == nil && in.err == nil {
		var text []byte
		if text, in.err = in.payload.JSON(); in.err == nil {
			in.doc, in.err = index(text)
		}
	}
	return in.doc, in.err
}

// release ends the use of the input: what rules have said must not refer to it.
func (in *input) release() {
	if in.doc != nil {
		in.doc.release()
	}
}

// fact is what the event has of facts[i].
func (in *input) fact(i int) ([]string, error) {
	if in.known&(1<<i) != 0 {
		return in.values[i], nil
	}
	r := facts[i].of(in.event.EventType)
	switch {
	case r == nil:
	case r.read == nil:
		if in.event.Repository != "" {
			in.values[i] = []string{string(in.event.Repository)}
		}
	default:
		d, err := in.document()
		if err != nil {
			return nil, err
		}
		in.values[i] = r.read(d)
	}
	in.known |= 1 << i
	return in.values[i], nil
}

// ResolveName implements cel.Activation.
func (in *input) ResolveName(name string) (any, bool) {
	switch name {
	case "event":
		return eventValue{in.event}, true
	case "payload":
		return in.doc.value(0), true
	default:
		return nil, false
	}
}

// Parent implements cel.Activation.
func (in *input) Parent() cel.Activation { return nil }
