//go:build unix

package handler

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocumentedFunctions runs the examples of the page about handlers.
func TestDocumentedFunctions(t *testing.T) {
	page := handlersPage(t)
	const body = `{"head_commit": null, "after": "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "ref": "refs/heads/release/1.2",
		"issue": {"labels": [{"name": "bug"}]}, "repository": {"owner": {"login": "Acme"}}}`
	rows := regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|.*\\| `(\\{\\{.*\\}\\})`.*\\| `([^`]+)` \\|$").FindAllStringSubmatch(page, -1)
	var have []string
	for _, row := range rows {
		have = append(have, row[1])
		text := strings.ReplaceAll(row[2], `\|`, "|")
		command, err := parseCommand([]string{"true", text}, false)
		if err != nil {
			t.Fatal(err)
		}
		argv, err := render(command, task(""), []byte(body))
		if err != nil || argv[1] != row[3] {
			t.Errorf("%s yields %q, %v; the page says %q", text, argv, err, row[3])
		}
	}
	var want []string
	for name, f := range functions {
		if f.usage != "" {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("the page has %q, want %q", have, want)
	}
}

func TestDocumentedStdin(t *testing.T) {
	_, after, _ := strings.Cut(handlersPage(t), "stdin: |\n")
	block, _, _ := strings.Cut(after, "```")
	r := Run{Command: []string{"cat"}, Stdin: strings.ReplaceAll("\n"+block, "\n  ", "\n")[1:]}
	res, err := handle(t, r, `{"issue":{"number":7,"title":"a \"b\"","labels":[],"body":null},"repository":{"full_name":"acme/api"}}`)
	want := "Triage issue 7 of acme/api.\nTitle: \"a \\\"b\\\"\"\nLabels: []\nThere is no description.\n"
	if err != nil || string(res.Output) != want {
		t.Errorf("the command reads %q, %v; want %q", res.Output, err, want)
	}
}

// TestDocumentedErrors: the page quotes what is said, up to an ellipsis.
func TestDocumentedErrors(t *testing.T) {
	page := handlersPage(t)
	for text, want := range map[string]string{
		"{{ .nothing }}":    `argument 1: .nothing: map has no entry for key "nothing"`,
		"{{ .base_ref }}":   "argument 1: .base_ref is null; default says",
		"{{ .repository }}": "argument 1: .repository is an object: name one of its fields, or print it with json",
		"{{ .dash }}":       `argument 1: "-rf" starts with "-"`,
		"{{ range .many }}{{ printf \"%100000s\" . }}{{ end }}": "argument 1: longer than the 131071 bytes of an argument",
	} {
		command, err := parseCommand([]string{"true", text}, false)
		if err != nil {
			t.Fatal(err)
		}
		_, err = render(command, task(""), []byte(`{"base_ref": null, "repository": {}, "dash": "-rf", "many": ["x", "y"]}`))
		if !strings.HasPrefix(message(err), want) || !strings.Contains(page, want) {
			t.Errorf("%s: %v; want %s, and the page to say so", text, err, want)
		}
	}
}

func handlersPage(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/reference/handlers.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
