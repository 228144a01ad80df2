//go:build unix

package config

import (
	"os/exec"
	"strings"
	"testing"
)

func TestShellWord(t *testing.T) {
	for s, want := range map[string]string{"/etc/a-b_c.yaml": "/etc/a-b_c.yaml", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'", "": "''"} {
		if got := ShellWord(s); got != want {
			t.Errorf("ShellWord(%q) = %s, want %s", s, got, want)
		}
	}
}

func FuzzShellWord(f *testing.F) {
	for _, s := range []string{"plain", "", "two words", "it's", "$HOME", "`x`", "a\nb", "-x", "*", "~", "\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			return // no argument can hold it
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+ShellWord(s)+"X").Output()
		if err != nil || string(out) != s+"X" {
			t.Errorf("a shell reads %s as %q, %v; want %q", ShellWord(s), out, err, s+"X")
		}
	})
}
