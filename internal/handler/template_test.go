package handler

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

func task(payload string) *queue.Task {
	return &queue.Task{
		Event: &queue.Event{
			ID: 42, Source: "github", DeliveryID: "d-1", EventType: "pull_request", Action: "opened", Repository: "acme/api",
			ReceivedAt: 1,
		},
		Payload: &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: []byte(payload)},
		Route:   "deploy", Attempt: 3, Key: "github/d-1/deploy",
	}
}

func kindOf(err error) string {
	var permanent *queue.PermanentError
	var away *queue.UnavailableError
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &permanent):
		return "permanent"
	case errors.As(err, &away):
		return "unavailable"
	default:
		return "retry"
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

const payload = `{
	"n": 12345678901234567890, "f": 1.50, "yes": true, "title": "Fix <it> & \"go\"", "dash": "-rf", "dashes": "--x", "empty": "",
	"null": null, "nul": "a\u0000b", "object": {"key": "v", "null": null}, "list": ["a", "b"], "event": "mine", "blank": " -x"
}`

func TestRender(t *testing.T) {
	tests := []struct {
		name, template, want, err string
	}{
		{"text", `plain`, "plain", ""},
		{"text with a dash", `-x`, "-x", ""},
		{"closing braces alone", `a }} b`, "a }} b", ""},
		{"string as it is", `{{ .title }}`, `Fix <it> & "go"`, ""},
		{"big number", `{{ .n }}`, "12345678901234567890", ""},
		{"fraction", `{{ .f }}`, "1.50", ""},
		{"truth", `{{ .yes }}`, "true", ""},
		{"nested", `x{{ .object.key }}y`, "xvy", ""},
		{"empty", `{{ .empty }}`, "", ""},
		{"null, asked for", `{{ with .null }}{{ . }}{{ else }}none{{ end }}`, "none", ""},
		{"if", `{{ if .yes }}a{{ else }}b{{ end }}`, "a", ""},
		{"range", `{{ range .list }}{{ . }},{{ end }}`, "a,b,", ""},
		{"dollar in a range", `{{ range .list }}{{ $.object.key }}{{ end }}`, "vv", ""},
		{"index", `{{ index .list 1 }}`, "b", ""},
		{"length", `{{ len .list }}`, "2", ""},
		{"variable", `{{ $x := .object }}{{ $x.key }}`, "v", ""},
		{"defined template", `{{ define "t" }}<{{ .key }}>{{ end }}{{ template "t" .object }}`, "<v>", ""},
		{"event", `{{ event.repository }} {{ event.id }} {{ event.event_type }} {{ event.attempt }} {{ event.route }}`, "acme/api 42 pull_request 3 deploy", ""},
		{"times and keys", `{{ event.received_at }} {{ event.idempotency_key }}`, "1970-01-01T00:00:00.001Z github/d-1/deploy", ""},
		{"the payload's own event", `{{ .event }}`, "mine", ""},
		{"dash behind text", `--title={{ .dash }}`, "--title=-rf", ""},
		{"blank before a dash", `{{ .blank }}`, " -x", ""},

		{"missing key", `{{ .nope }}`, "", `template: argument 1:1:3: executing "argument 1" at <.nope>: map has no entry for key "nope"`},
		{"missing nested key", `x{{ .object.nope }}`, "", `map has no entry for key "nope"`},
		{"missing fact", `{{ event.nope }}`, "", `map has no entry for key "nope"`},
		{"missing in a condition", `{{ if .nope }}x{{ end }}`, "", `map has no entry for key "nope"`},
		{"key of null", `{{ .null.key }}`, "", `argument 1`},
		{"key of text", `{{ .title.key }}`, "", `can't evaluate field key`},
		{"null", `x{{ .object.null }}`, "", `argument 1: .object.null is null`},
		{"null in a range", `{{ range .list }}{{ $.null }}{{ end }}`, "", `argument 1: $.null is null`},
		{"null in a defined template", `{{ define "t" }}{{ .null }}{{ end }}{{ template "t" .object }}`, "", `argument 1: .null is null`},
		{"absent fact", `{{ event.sender }}`, "", `argument 1: event.sender is null`},
		{"object", `{{ .object }}`, "", `argument 1: .object is an object: name one of its fields`},
		{"list", `{{ .list }}`, "", `argument 1: .list is a list`},
		{"leading dash", `{{ .dash }}`, "", `argument 1: "-rf" starts with "-"`},
		{"leading dashes", `{{ .dashes }}x`, "", `argument 1: "--xx" starts with "-"`},
		{"dash behind nothing", `{{ .empty }}{{ .dash }}`, "", `starts with "-"`},
		{"dash behind trimmed blanks", `  {{- .dash }}`, "", `starts with "-"`},
		{"dash behind a comment", `{{/* x */}}{{ .dash }}`, "", `starts with "-"`},
		{"dash behind a definition", `{{ define "t" }}x{{ end }}{{ .dash }}`, "", `starts with "-"`},
		{"dash in a branch", `{{ if .yes }}{{ .dash }}{{ end }}`, "", `starts with "-"`},
		{"NUL", `{{ .nul }}`, "", `argument 1: a NUL byte`},
		{"too long", `{{ range .list }}{{ printf "%70000s" . }}{{ end }}`, "", `argument 1: longer than the 131071 bytes`},
		{"endless", `{{ define "t" }}x{{ template "t" }}{{ end }}{{ template "t" }}`, "", `argument 1`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			command, err := parseCommand([]string{"true", tt.template})
			if err != nil {
				t.Fatal(err)
			}
			argv, err := render(command, task(""), []byte(payload))
			if tt.err != "" {
				if kindOf(err) != "permanent" || !strings.Contains(message(err), tt.err) {
					t.Errorf("render(%s) = %q, %s %v; want permanent, with %s", tt.template, argv, kindOf(err), err, tt.err)
				}
				return
			}
			if err != nil || argv[1] != tt.want {
				t.Errorf("render(%s) = %q, %v; want %q", tt.template, argv, err, tt.want)
			}
		})
	}
}

func TestRenderBadPayload(t *testing.T) {
	command, err := parseCommand([]string{"true", "{{ .x }}"})
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{`, `null`, `[]`, `"x"`, `1`} {
		if argv, err := render(command, task(""), []byte(body)); kindOf(err) != "permanent" {
			t.Errorf("render of payload %s = %q, %v; want permanent", body, argv, err)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"x", "{{ .a }}", "{{", "{{ define \"x\" }}{{ . }}{{ end }}", "{{ range .x }}{{ break }}{{ end }}", "{{- 1 -}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args, err := parseCommand([]string{"true", text})
		if err == nil && (len(args) != 2 || args[1].text != text) {
			t.Errorf("parseCommand(%q) = %+v", text, args)
		}
	})
}

// FuzzRender renders what an operator may write with what a sender may send.
func FuzzRender(f *testing.F) {
	templates := []string{
		`{{ .a }}`, `x{{ .a }}`, `{{ .a }}{{ .b }}`, `{{ with .a }}{{ . }}{{ end }}`, `{{ range .a }}{{ . }}{{ end }}`,
		`{{ .a.b }}`, `{{ index .a 0 }}`, `{{ len .a }}`, `{{ printf "%s" .a }}`, `{{ if eq .a .b }}{{ .a }}{{ end }}`,
		`{{ slice .a 1 }}`, `{{ .a | html }}`, `{{ event.repository }}{{ .a }}`, `--a={{ .a }}`,
	}
	var commands [][]argument
	for _, text := range templates {
		command, err := parseCommand([]string{"true", text})
		if err != nil {
			f.Fatal(err)
		}
		commands = append(commands, command)
	}
	for _, s := range []string{
		payload, `{"a":"-x","b":1}`, `{"a":null}`, `{"a":{"b":"\u0000"}}`, `{"a":["-","x"],"b":[]}`, `{"a":1e999}`, `[`, `{"a":"é"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for i, command := range commands {
			argv, err := render(command, task(""), body)
			if err != nil {
				if kindOf(err) != "permanent" || err.Error() == "" {
					t.Errorf("render(%s) error = %s %q, want permanent with a message", templates[i], kindOf(err), err)
				}
				continue
			}
			text := argv[1]
			if len(text) > maxArgument || strings.ContainsRune(text, 0) {
				t.Errorf("render(%s) = %q, which no program can be given", templates[i], text)
			}
			if strings.HasPrefix(templates[i], "{{") && strings.HasPrefix(text, "-") {
				t.Errorf("render(%s) = %q, an option", templates[i], text)
			}
			if strings.Contains(text, "<no value>") && !strings.Contains(string(body), "value") {
				t.Errorf("render(%s) = %q, which the payload does not hold", templates[i], text)
			}
		}
		var p struct{ A string }
		if d, err := render(commands[1], task(""), body); err == nil && json.Unmarshal(body, &p) == nil && p.A != "" && !strings.HasPrefix(d[1], "x") {
			t.Errorf("render(%s) = %q, want it to begin with x", templates[1], d[1])
		}
	})
}

func BenchmarkRender(b *testing.B) {
	command, err := parseCommand([]string{"true", "--repo", "{{ .repository.full_name }}", "--pr", "{{ .number }}"})
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"number":1,"repository":{"full_name":"acme/api"},"body":"` + strings.Repeat("x", 10<<10) + `"}`)
	in := task("")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := render(command, in, body); err != nil {
			b.Fatal(err)
		}
	}
}

var _ queue.Handler = (*run)(nil)
