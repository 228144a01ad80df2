package cli

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"orchestrate/internal/config"
)

// hidden stands in the files of testdata/invalid wherever a secret would, and
// never in what is told.
const hidden = "hunter2"

// TestInvalid: for every mistake that a configuration can have, what is told.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d invalid configurations, %v; want 60", len(files), err)
	}
	for _, k := range config.Keys() {
		unset(t, k.Env())
	}
	for _, name := range []string{"ORCHESTRATE_CONFIG", "ORCHESTRATE_SECRETS", config.SecretVariable, "NOT_SET"} {
		unset(t, name)
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("TWO_SECRETS", hidden+"\n"+hidden+hidden)
	t.Setenv("ONE_SECRET", hidden+hidden+hidden)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			got := invalid(t, file)
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
			checkLines(t, got)
		})
	}
}

// invalid is what validate tells of a file, with DIR and FILE for where it is.
func invalid(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // the checkout may be writable by others
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	a := &App{In: strings.NewReader(""), Out: bufio.NewWriter(&out), Err: &stderr, Getenv: os.Getenv}
	if code := a.Run(t.Context(), []string{"config", "validate", "--config", path}); code != 78 {
		t.Errorf("exit code %d, want 78: %s", code, stderr.String())
	}
	if out.Len() > 0 {
		t.Errorf("on standard output: %s", out.String())
	}
	return strings.NewReplacer(path, "FILE", dir, "DIR").Replace(stderr.String())
}

// withoutColumn are the mistakes whose column nobody knows: YAML's own.
var (
	place         = regexp.MustCompile(`^FILE:\d+:\d+: `)
	withoutColumn = regexp.MustCompile(`^FILE:\d+: not YAML: `)
	inner         = regexp.MustCompile(`%!|0x[0-9a-f]{6}|\*?\b(strconv|yaml|url|netip|template|json|os|fs)\.[A-Z]|<nil>|nil\b|ERROR:`)
)

func checkLines(t *testing.T, told string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(told, "\n"), "\n")
	seen := map[string]bool{}
	for _, line := range lines {
		switch {
		case !place.MatchString(line) && !withoutColumn.MatchString(line):
			t.Errorf("begins with no place: %q", line)
		case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }):
			t.Errorf("holds control characters: %q", line)
		case strings.Contains(line, hidden):
			t.Errorf("shows a secret: %q", line)
		case inner.MatchString(line):
			t.Errorf("shows the program's inner workings, %q: %q", inner.FindString(line), line)
		case seen[line]:
			t.Errorf("is told twice: %q", line)
		}
		seen[line] = true
	}
}

func unset(t *testing.T, name string) {
	t.Helper()
	t.Setenv(name, "") // so that it is put back
	if err := os.Unsetenv(name); err != nil {
		t.Fatal(err)
	}
}

// TestOdd: what may be meant is told, but refuses nothing.
func TestOdd(t *testing.T) {
	const text = `routes:
  - name: deploy
    on: [pull_requests, pull_request.open, push.created, repository_dispatch.deploy, push, issues, issues.opened]
    filter: {labels: [agent]}
    run: {command: ["true"]}
  - name: agent
    on: [push]
    run: {command: [no-such-program-anywhere]}
`
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	a := &App{In: strings.NewReader(""), Out: bufio.NewWriter(&bytes.Buffer{}), Err: &stderr, Getenv: os.Getenv}
	if code := a.Run(t.Context(), []string{"config", "validate", "--config", path}); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	want := `warning: FILE:3:10: route deploy: on[0]: "pull_requests" is no event that is known here; did you mean pull_request?
warning: FILE:3:25: route deploy: on[1]: pull_request has no action "open" that is known here; did you mean opened?
warning: FILE:3:44: route deploy: on[2]: push has no actions, so that "push.created" would never come
warning: FILE:3:100: route deploy: on[6]: "issues.opened" is among what stands before it
warning: FILE:4:22: route deploy: filter.labels: no event of type pull_requests, push, repository_dispatch has it, so that none starts this route
warning: FILE:8:21: route agent: run.command[0]: exec: "no-such-program-anywhere": executable file not found in $PATH; attempts fail until it is there
`
	if got := strings.ReplaceAll(stderr.String(), path, "FILE"); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}
