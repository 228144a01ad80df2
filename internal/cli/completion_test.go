package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCompletionScriptsAreCurrent(t *testing.T) {
	for shell, ext := range map[string]string{"bash": "bash", "zsh": "zsh", "fish": "fish", "powershell": "ps1"} {
		want, err := os.ReadFile(filepath.Join("..", "..", "completions", "orchestrate."+ext))
		if err != nil {
			t.Fatal(err)
		}
		a, out := newOutput(formatTable)
		if code := a.Run(t.Context(), []string{"completion", shell}); code != 0 || out.String() != string(want) {
			t.Errorf("completions/orchestrate.%s differs from what the program prints (exit code %d); run make completions", ext, code)
		}
	}
}
