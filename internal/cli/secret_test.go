package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"orchestrate/internal/config"
)

func TestSecretGenerate(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	hex := regexp.MustCompile(`^[0-9a-f]{64}\n$`)
	first, second := f.run("secret", "generate"), f.run("secret", "generate")
	for _, r := range []result{first, second} {
		r.want(t, 0, "*", "")
		if !hex.MatchString(r.out) {
			t.Errorf("got %q, want 64 hexadecimal digits and nothing else", r.out)
		}
	}
	if first.out == second.out {
		t.Errorf("twice the same: %s", first.out)
	}
	f.width = 80
	f.run("secret", "generate").want(t, 0, "*", "Paste it at GitHub (Settings, Webhooks, Secret)")
}

func TestSecretFile(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	path := f.path("secret")
	r := f.run("secret", "generate", "--file", path, "-o", "json")
	r.want(t, 0, "{\n  \"secret\": null,\n  \"file\": \""+path+"\"\n}\n", "")
	kept, created, err := config.GenerateSecret(path) // reads what is there, as serve does
	if err != nil || created || len(kept.Bytes()) != 64 {
		t.Fatalf("got a secret of %d digits, made anew: %v, %v; want the one of 64 that was made", len(kept.Bytes()), created, err)
	}
	if strings.Contains(r.out, string(kept.Bytes())) {
		t.Error("the secret is printed, too")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestSecretFileIsNeverOverwritten(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	must(os.WriteFile(f.path("secret"), []byte("old"), 0o600))
	must(os.Symlink(f.path("nowhere"), f.path("link")))
	for _, name := range []string{"secret", "link", "."} {
		f.run("secret", "generate", "--file", f.path(name)).want(t, 5, "", "exists and is not overwritten; name another file, or remove it first")
	}
	if b, err := os.ReadFile(f.path("secret")); string(b) != "old" {
		t.Errorf("the file holds %q, %v; want what it held", b, err)
	}
	f.run("secret", "generate", "--file", f.path("no/dir/secret")).want(t, 1, "", "no such file or directory")
	f.run("secret", "generate", "--file", "").want(t, 2, "", "--file is empty")
	if left, err := filepath.Glob(f.path("*")); err != nil || len(left) != 2 {
		t.Errorf("left are %q, %v; want what was there", left, err)
	}
}
