package handler

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"orchestrate/internal/queue"
)

// The head tells how a command began, the tail why it failed, so the tail gets
// the larger part of queue.MaxOutput. The line between them takes the rest.
const (
	headSize = 16 << 10
	markSize = 64
	tailSize = queue.MaxOutput - headSize - markSize
)

// output keeps the head and the tail of what is written to it. The zero value is
// ready.
type output struct {
	head  []byte
	tail  []byte // a ring, once it is full
	next  int    // where the ring goes on
	total int64
}

// Write takes everything; its error is always nil.
func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	o.total += int64(n)
	k := min(len(p), headSize-len(o.head))
	o.head, p = append(o.head, p[:k]...), p[k:]
	k = min(len(p), tailSize-len(o.tail))
	o.tail, p = append(o.tail, p[:k]...), p[k:]
	for len(p) > 0 {
		k = copy(o.tail[o.next:], p)
		o.next, p = (o.next+k)%tailSize, p[k:]
	}
	return n, nil
}

// bytes is what was kept, at most queue.MaxOutput bytes; nil if there was none.
func (o *output) bytes() []byte {
	left := o.total - int64(len(o.head)+len(o.tail))
	if left == 0 {
		return append(o.head, o.tail...)
	}
	mark := fmt.Appendf(nil, "\n[%d bytes left out]\n", left)
	return slices.Concat(o.head, mark, o.tail[o.next:], o.tail[:o.next])
}

// maxLine bounds what an error message says of the output, in bytes.
const maxLine = 200

// lastLine is the last line with something to read: where programs say why they
// failed.
func lastLine(out []byte) string {
	for len(out) > 0 {
		i := bytes.LastIndexAny(out, "\r\n")
		if line := strings.TrimSpace(queue.Printable(string(out[i+1:]))); line != "" {
			return queue.Cut(line, maxLine)
		}
		out = out[:max(i, 0)]
	}
	return ""
}
