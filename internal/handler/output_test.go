package handler

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

func TestOutput(t *testing.T) {
	for _, size := range []int{
		0, 1, headSize, headSize + 1, headSize + tailSize, headSize + tailSize + 1, queue.MaxOutput, queue.MaxOutput + 1, 1 << 20,
	} {
		for _, chunk := range []int{1, 1000, 32 << 10, 1 << 20} {
			t.Run(fmt.Sprintf("%d by %d", size, chunk), func(t *testing.T) {
				all := make([]byte, size)
				random := rand.New(rand.NewPCG(1, 2))
				for i := range all {
					all[i] = "abcdefghijklmnopqrstuvwxyz"[random.IntN(26)]
				}
				want := all
				if left := size - headSize - tailSize; left > 0 {
					want = fmt.Appendf(bytes.Clone(all[:headSize]), "\n[%d bytes left out]\n%s", left, all[size-tailSize:])
				}
				var o output
				for rest := all; len(rest) > 0; {
					n, err := o.Write(rest[:min(chunk, len(rest))])
					if n == 0 || err != nil {
						t.Fatalf("Write = %d, %v", n, err)
					}
					rest = rest[n:]
				}
				got := o.bytes()
				if !bytes.Equal(got, want) {
					t.Errorf("kept %d bytes, want %d, or other ones", len(got), len(want))
				}
				if len(got) > queue.MaxOutput {
					t.Errorf("kept %d bytes, want at most %d", len(got), queue.MaxOutput)
				}
			})
		}
	}
}

func FuzzLastLine(f *testing.F) {
	for _, s := range []string{"", "\n", "a\nb\n", "x\r\n\r\n", "\x00\xff\n", strings.Repeat("é", 300)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		got := lastLine(out)
		if len(got) > maxLine || got != queue.Printable(got) {
			t.Errorf("lastLine(%q) = %q, want it printable and at most %d bytes", out, got, maxLine)
		}
		if all := strings.TrimSpace(queue.Printable(string(out))); got == "" && all != "" {
			t.Errorf("lastLine(%q) is empty, want something of %q", out, all)
		}
	})
}
