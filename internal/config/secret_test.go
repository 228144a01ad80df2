package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const hidden = "hunter2-hunter2-hunter2"

func TestSecretShowsNothing(t *testing.T) {
	s := NewSecret([]byte(hidden), "env:A")
	type holder struct {
		Public  Secret
		private Secret
		list    []Secret
	}
	h := holder{s, s, []Secret{s}}
	js, err := json.Marshal(map[string]any{"a": s, "b": &s, "c": h})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "a", s, "b", &s, "c", h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "a", s, "b", &s, "c", h)
	outputs := map[string]string{"json": string(js), "log": log.String(), "String": s.String(), "GoString": s.GoString()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		outputs[verb] = fmt.Sprintf(verb+verb+verb+verb, s, &s, h, &h)
	}
	for name, out := range outputs {
		for _, form := range []string{hidden, fmt.Sprintf("%x", hidden), "104 117 110"} {
			if strings.Contains(out, form) {
				t.Errorf("%s shows the secret: %s", name, out)
			}
		}
		if name != "%T" && !strings.Contains(out, "[redacted]") {
			t.Errorf("%s does not say that something is left out: %s", name, out)
		}
	}
	if got := string(s.Bytes()); got != hidden {
		t.Errorf("Bytes = %q", got)
	}
	if got := (Secret{}).Bytes(); got != nil {
		t.Errorf("Bytes of none = %q", got)
	}
}

func resolved(t *testing.T, c *Config) []string {
	t.Helper()
	secrets, err := ResolveSecrets(c.Secrets)
	if err != nil {
		t.Fatalf("resolve: %v", err)
	}
	var got []string
	for _, s := range secrets {
		got = append(got, string(s.Bytes()))
	}
	return got
}

func TestSecretLines(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"one":               {"alpha", []string{"alpha"}},
		"line end":          {"alpha\n", []string{"alpha"}},
		"CRLF":              {"alpha\r\nbeta\r\n", []string{"alpha", "beta"}},
		"blanks belong":     {" al pha \t\n", []string{" al pha \t"}},
		"only blanks":       {"  \n", []string{"  "}},
		"empty lines":       {"\n\nalpha\n\r\n\nbeta", []string{"alpha", "beta"}},
		"bare CR stays":     {"al\rpha\r", []string{"al\rpha\r"}},
		"twice":             {"alpha\nalpha\n", []string{"alpha"}},
		"bytes, not text":   {"\xff\xfe\n", []string{"\xff\xfe"}},
		"only one CR of it": {"alpha\r\r\n", []string{"alpha\r"}},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			t.Setenv(SecretVariable, c.text)
			if got := resolved(t, mustLoad(t, Options{})); !slices.Equal(got, c.want) {
				t.Errorf("variable: got %q, want %q", got, c.want)
			}
			unset(t, SecretVariable)
			path := write(t, filepath.Join(t.TempDir(), "secret"), c.text)
			if got := resolved(t, &Config{Secrets: []string{"file:" + path}}); !slices.Equal(got, c.want) {
				t.Errorf("file: got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSecretsOfSeveralReferences(t *testing.T) {
	clean(t)
	t.Setenv("ONE", "first\nsecond")
	path := file(t, `secrets: ["env:ONE", "file:more"]`)
	write(t, filepath.Join(filepath.Dir(path), "more"), "third\nfirst\n")
	c := mustLoad(t, Options{File: path})
	if got, want := resolved(t, c), []string{"first", "second", "third"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	t.Setenv(SecretVariable, "alone")
	c = mustLoad(t, Options{File: path})
	if got, want := resolved(t, c), []string{"alone"}; !slices.Equal(got, want) {
		t.Errorf("with the variable: got %q, want %q", got, want)
	}
}

func TestNoSecrets(t *testing.T) {
	clean(t)
	if got := resolved(t, mustLoad(t, Options{})); got != nil {
		t.Errorf("got %q, want none", got)
	}
}

func TestRefusedReferences(t *testing.T) {
	for name, text := range map[string]string{
		"literal": "[" + hidden + "]", "upper case": "['ENV:" + hidden + "']", "no name": "['env:']", "no path": "['file:']",
		"blanks": "['env:" + hidden + " x']", "literal, alone": hidden, "mapping": "{a: " + hidden + "}", "nested": "[[" + hidden + "]]",
		"tagged": "!!binary " + hidden, "null": "[~]", "home": "['file:~/" + hidden + "']",
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			got := refusal(t, Options{File: file(t, "\nsecrets: "+text)})
			if !strings.HasPrefix(got, "FILE:2:1") {
				t.Errorf("got %s, want FILE:2:1N: secrets...", got)
			}
			if strings.Contains(got, hidden) {
				t.Errorf("the secret is shown: %s", got)
			}
		})
	}
	clean(t)
	got := refusal(t, Options{File: file(t, "secrets: ["+hidden+"]")})
	want := "FILE:1:11: secrets[0]: no reference; write env:NAME or file:PATH, never the secret itself (what stands there is not shown)"
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestWrongVariableOfSecrets(t *testing.T) {
	clean(t)
	t.Setenv("ORCHESTRATE_SECRETS", hidden)
	want := "ORCHESTRATE_SECRETS: no such variable; put the secrets, one a line, into GITHUB_WEBHOOK_SECRET"
	if got := refusal(t, Options{}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestUnresolvedSecrets(t *testing.T) {
	clean(t)
	t.Setenv(SecretVariable, "")
	if c := mustLoad(t, Options{}); !slices.Equal(c.Secrets, []string{"env:" + SecretVariable}) {
		t.Errorf("set but empty: references %q", c.Secrets)
	}
	dir := t.TempDir()
	empty := write(t, filepath.Join(dir, "empty"), "\r\n\n")
	long := write(t, filepath.Join(dir, "long"), strings.Repeat("x", maxSecrets+1))
	unset(t, "UNSET")
	for ref, want := range map[string]string{
		"env:" + SecretVariable: "secret env:GITHUB_WEBHOOK_SECRET: set but empty; write the secret there",
		"env:UNSET":             "secret env:UNSET: the variable is not set; set it, or name another",
		"file:/nonexistent/x":   "secret file:/nonexistent/x: no such file or directory; write the secret there, or name another file",
		"file:" + empty:         "secret file:" + empty + ": set but empty; write the secret there",
		"file:" + long:          "secret file:" + long + ": longer than 65536 bytes; write the secret there, or name another file",
		"file:" + dir:           "secret file:" + dir + ": is a directory; write the secret there, or name another file",
	} {
		got, err := ResolveSecrets([]string{ref})
		if err == nil || got != nil {
			t.Errorf("%s: got %v, %v", ref, got, err)
			continue
		}
		if !errors.Is(err, ErrInvalid) || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", ref, err, want)
		}
	}
	_, err := ResolveSecrets([]string{"env:UNSET", "file:/nonexistent/x"})
	if n := strings.Count(err.Error(), "secret env:") + strings.Count(err.Error(), "secret file:"); n != 2 {
		t.Errorf("%d problems are named in %v, want 2", n, err)
	}
}

func TestWeakSecretIsWarnedAbout(t *testing.T) {
	short := NewSecret([]byte("fifteen bytes.."), "env:A")
	if got, want := short.Warning(), "a secret from env:A has less than 16 bytes and could be guessed"; got != want {
		t.Errorf("warning = %q, want %q", got, want)
	}
	if got := NewSecret([]byte("sixteen bytes..."), "env:A").Warning(); got != "" {
		t.Errorf("warning = %q, want none", got)
	}
}

func TestGenerateSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "secret")
	first, created, err := GenerateSecret(path)
	if err != nil || !created {
		t.Fatalf("first: created %t, %v", created, err)
	}
	if !regexp.MustCompile("^[0-9a-f]{64}$").Match(first.Bytes()) {
		t.Errorf("the secret is %d bytes long, want 64 hex digits", len(first.Bytes()))
	}
	if first.From() != "file:"+path {
		t.Errorf("from = %s", first.From())
	}
	for path, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700 | fs.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	again, created, err := GenerateSecret(path)
	if err != nil || created || !bytes.Equal(again.Bytes(), first.Bytes()) {
		t.Errorf("again: created %t, %v, same %t", created, err, bytes.Equal(again.Bytes(), first.Bytes()))
	}
	if got := resolved(t, &Config{Secrets: []string{again.From()}}); !slices.Equal(got, []string{string(first.Bytes())}) {
		t.Errorf("read as a reference it is another secret")
	}
	other, _, err := GenerateSecret(filepath.Join(t.TempDir(), "secret"))
	if err != nil || bytes.Equal(other.Bytes(), first.Bytes()) {
		t.Errorf("two places have the same secret, or %v", err)
	}
}

func TestGenerateSecretAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	const n = 32
	var wg sync.WaitGroup
	secrets, created := make([]Secret, n), make([]bool, n)
	for i := range n {
		wg.Go(func() {
			var err error
			if secrets[i], created[i], err = GenerateSecret(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	makers := 0
	for i := range n {
		if created[i] {
			makers++
		}
		if !bytes.Equal(secrets[i].Bytes(), secrets[0].Bytes()) {
			t.Errorf("starters 0 and %d have different secrets", i)
		}
	}
	if makers != 1 {
		t.Errorf("%d made the secret, want 1", makers)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestGenerateSecretRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		mode fs.FileMode
		want string
	}{
		"world":  {hidden, 0o604, "others can read it (mode 0604): chmod 600 PATH"},
		"group":  {hidden, 0o640, "others can read it (mode 0640): chmod 600 PATH"},
		"empty":  {"\n", 0o600, "set but empty; write the secret there"},
		"second": {hidden + "\nmore", 0o600, `PATH holds 2 secrets; to use several, name it in the configuration: secrets: ["file:PATH"]`},
		"long":   {strings.Repeat("x", maxSecrets+1), 0o600, "longer than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(dir, name), c.text)
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			s, created, err := GenerateSecret(path)
			if err == nil || created || s.Bytes() != nil {
				t.Fatalf("got created %t, %v", created, err)
			}
			if got := strings.ReplaceAll(err.Error(), path, "PATH"); !errors.Is(err, ErrInvalid) || !strings.HasSuffix(got, c.want) {
				t.Errorf("\n got %s\nwant ...%s", got, c.want)
			}
			if strings.Contains(err.Error(), hidden) {
				t.Errorf("the secret is shown: %v", err)
			}
		})
	}
	path := filepath.Join(write(t, filepath.Join(dir, "file"), ""), "secret")
	if _, _, err := GenerateSecret(path); !errors.Is(err, ErrInvalid) {
		t.Errorf("below a file: %v, want ErrInvalid", err)
	}
}
