package cli

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"orchestrate/internal/queue"
)

func TestProgress(t *testing.T) {
	for _, tt := range []struct {
		name       string
		tty, quiet bool
		long       bool
		want       string
	}{
		{"terminal", true, false, true, "\rrequeued 7 jobs\x1b[K\r\x1b[K"},
		{"soon over", true, false, false, ""},
		{"no terminal", false, false, true, ""},
		{"quiet", true, true, true, ""},
	} {
		var stderr bytes.Buffer
		a := &App{Out: bufio.NewWriter(io.Discard), Err: &stderr, ErrTTY: tt.tty, quiet: tt.quiet}
		p := a.newProgress("requeued %d jobs")
		if tt.long {
			p.start = queue.Clock().Add(-progressAfter)
		}
		p.show(7)
		p.clear()
		if stderr.String() != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, stderr.String(), tt.want)
		}
	}
}
