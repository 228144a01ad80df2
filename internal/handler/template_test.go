package handler

import (
	"encoding/json"
	"errors"
	"slices"
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

var longText = strings.Repeat("x", 4000)

var payload = `{
	"n": 12345678901234567890, "f": 1.50, "yes": true, "title": "Fix <it> & \"go\"", "dash": "-rf", "dashes": "--x", "empty": "",
	"null": null, "nul": "a\u0000b", "object": {"key": "v", "null": null}, "list": ["a", "b"], "nothing": [], "no": false, "zero": 0, "three": 3,
	"people": [{"login": "Ann", "id": 9007199254740993123, "size": 1.50}], "sha": "0123456789abcdef", "umlauts": "ÄÖÜ",
	"ref": "refs/heads/release/1.2", "long": "` + longText + `", "event": "mine", "blank": " -x"
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

		{"default, there", `{{ .title | default "none" }}`, `Fix <it> & "go"`, ""},
		{"default, absent", `{{ .nope | default "none" }}`, "none", ""},
		{"default, absent above", `{{ .nope.a.b | default "none" }}`, "none", ""},
		{"default, absent below", `{{ .object.nope.b | default "none" }}`, "none", ""},
		{"default, null", `{{ .null | default "none" }}`, "none", ""},
		{"default, null above", `{{ .null.a | default "none" }}`, "none", ""},
		{"default, empty", `{{ .empty | default "none" }}`, "none", ""},
		{"default, empty list", `{{ .nothing | default "none" }}`, "none", ""},
		{"default keeps false", `{{ .no | default "none" }}`, "false", ""},
		{"default keeps 0", `{{ .zero | default "none" }}`, "0", ""},
		{"default as a call", `{{ default "none" .object.nope }}`, "none", ""},
		{"default in parentheses", `{{ printf "%s!" (.object.nope | default "none") }}`, "none!", ""},
		{"default of parentheses", `{{ (.nope) | default "none" }}`, "none", ""},
		{"default of a field of parentheses", `{{ (index .people 0).nope.x | default "none" }}`, "none", ""},
		{"default of a field of what is missing", `{{ (.nope).x | default "none" }}`, "none", ""},
		{"default of a variable", `{{ $x := .object }}{{ $x.nope | default "none" }}`, "none", ""},
		{"default of the root", `{{ range .list }}{{ $.nope.a | default "none" }}{{ end }}`, "nonenone", ""},
		{"default of a fact", `{{ event.sender | default "ghost" }}`, "ghost", ""},
		{"default after default", `{{ .nope | default .object.nope | default .object.key | default "none" }}`, "v", ""},
		{"default before a function", `{{ .nope | default "MAIN" | lower }}`, "main", ""},
		{"default behind functions", `{{ .nope.x | base | lower | trunc 7 | replace "a" "b" | default "none" }}`, "none", ""},
		{"default in a condition", `{{ if .nope | default "" }}a{{ else }}b{{ end }}`, "b", ""},
		{"default in a range", `{{ range .nope | default .list }}{{ . }}{{ end }}`, "ab", ""},
		{"default for a template", `{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .nope | default "x" }}`, "<x>", ""},
		{"default in a defined template", `{{ define "t" }}<{{ .nope | default "x" }}>{{ end }}{{ template "t" .object }}`, "<x>", ""},
		{"default in a variable", `{{ $x := .nope | default "x" }}{{ $x }}`, "x", ""},
		{"json of a list", `{{ .list | json }}`, `["a","b"]`, ""},
		{"json of an object", `{{ .object | json }}`, `{"key":"v","null":null}`, ""},
		{"json of a text", `{{ .title | json }}`, `"Fix <it> & \"go\""`, ""},
		{"json keeps numbers", `{{ .people | json }}`, `[{"id":9007199254740993123,"login":"Ann","size":1.50}]`, ""},
		{"json of null", `{{ .null | json }}`, `null`, ""},
		{"json of NUL", `{{ .nul | json }}`, `"a\u0000b"`, ""},
		{"json of default", `{{ .nope | default .list | json }}`, `["a","b"]`, ""},
		{"json of the facts", `{{ event | json | trunc 18 }}`, `{"action":"opened"`, ""},
		{"trunc", `{{ .sha | trunc 7 }}`, "0123456", ""},
		{"trunc of less", `{{ .object.key | trunc 7 }}`, "v", ""},
		{"trunc at the length", `{{ "abc" | trunc 3 }}`, "abc", ""},
		{"trunc to nothing", `x{{ .sha | trunc 0 }}`, "x", ""},
		{"trunc from the end", `{{ .sha | trunc -4 }}`, "cdef", ""},
		{"trunc from the end of less", `{{ .object.key | trunc -4 }}`, "v", ""},
		{"trunc of characters", `{{ .umlauts | trunc 2 }}`, "ÄÖ", ""},
		{"trunc of a number", `{{ .n | trunc 3 }}`, "123", ""},
		{"trunc by the payload", `{{ .sha | trunc .three }}`, "012", ""},
		{"base of a branch", `{{ .ref | base }}`, "release/1.2", ""},
		{"base of a tag", `{{ "refs/tags/v1/rc" | base }}`, "v1/rc", ""},
		{"base of another ref", `{{ "refs/pull/7/merge" | base }}`, "merge", ""},
		{"base of a path", `{{ "src/a/b.go" | base }}`, "b.go", ""},
		{"base of a repository", `{{ "acme/api" | base }}`, "api", ""},
		{"base of a word", `{{ "main" | base }}`, "main", ""},
		{"base of nothing", `x{{ .empty | base }}`, "x", ""},
		{"lower", `{{ .umlauts | lower }}{{ "AbC" | lower }}`, "äöüabc", ""},
		{"replace", `{{ .ref | base | replace "/" "-" }}`, "release-1.2", ""},
		{"replace by nothing", `{{ .ref | replace "refs/heads/" "" }}`, "release/1.2", ""},
		{"replace by the payload", `{{ .ref | replace "/" .object.key }}`, "refsvheadsvreleasev1.2", ""},
		{"replace in a number", `{{ .f | replace "." "," }}`, "1,50", ""},
		{"printf of a number", `{{ printf "%d %s %v %05d" .zero .n .f .zero }}`, "0 12345678901234567890 1.50 00000", ""},
		{"print", `{{ print .n "x" }}`, "12345678901234567890x", ""},
		{"urlquery", `{{ urlquery .title }}`, "Fix+%3Cit%3E+%26+%22go%22", ""},

		{"default does not reach further", `{{ printf "%s" .nope | default "none" }}`, "", `argument 1: .nope: map has no entry for key "nope"`},
		{"default behind json", `{{ .nope | json | default "none" }}`, "", `map has no entry for key "nope"`},
		{"default of a key of text", `{{ .title.key | default "none" }}`, "", `argument 1: .title is no object: it has no key "key"`},
		{"default of an object", `{{ .object | default "none" }}`, "", `is an object`},
		{"a fallback that is missing", `{{ .null | default .nope }}`, "", `map has no entry for key "nope"`},
		{"a fallback that is null", `{{ .nope | default .null }}`, "", `is null`},
		{"json of what is missing", `{{ .nope | json }}`, "", `map has no entry for key "nope"`},
		{"lower of null", `{{ .null | lower }}`, "", `argument 1: .null | lower is null; default says what to use then`},
		{"lower of what is missing", `{{ .nope | lower }}`, "", `map has no entry for key "nope"`},
		{"lower of an object", `{{ .object | lower }}`, "", `argument 1: lower: its value is an object`},
		{"base of a list", `{{ .list | base }}`, "", `argument 1: base: its value is a list`},
		{"trunc by no number", `{{ .sha | trunc .title }}`, "", `argument 1: trunc: "Fix <it> & \"go\"" is no whole number`},
		{"trunc by a fraction", `{{ .sha | trunc .f }}`, "", `argument 1: trunc: "1.50" is no whole number`},
		{"replace of nothing", `{{ .sha | replace .empty "x" }}`, "", `argument 1: replace: argument 1 is not a text of some length`},
		{"replace by a number", `{{ .sha | replace "x" .n }}`, "", `argument 1: replace: argument 2 is not a text`},
		{"replace without end", `{{ .long | replace "x" .long }}`, "", `argument 1: longer than the 131071 bytes`},
		{"printf of null", `{{ printf "%s" .null }}`, "", `argument 1: printf: value 1 is null`},
		{"print of an object", `{{ print "x" .object }}`, "", `argument 1: print: value 2 is an object`},
		{"html of null", `{{ .null | html }}`, "", `argument 1: html: value 1 is null`},
		{"missing key", `{{ .nope }}`, "", `argument 1: .nope: map has no entry for key "nope"`},
		{"missing nested key", `x{{ .object.nope }}`, "", `map has no entry for key "nope"`},
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
			command, err := parseCommand([]string{"true", tt.template}, false)
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

// TestParseErrors is about what is known without a payload.
func TestParseErrors(t *testing.T) {
	tests := []struct{ name, template, want string }{
		{"unclosed", `{{ .x`, `1:1: {{ is not closed; close it with }}`},
		{"unclosed, behind others", `{{ .a }} é {{ .x`, `1:12: {{ is not closed; close it with }}`},
		{"unclosed, on a line of its own", "{{ .a }}\nab {{ .b }} {{ .x", `2:13: {{ is not closed; close it with }}`},
		{"unexpected", `a {{ .a }} {{ .x | | .y }} {{ .z }}`, `1:12: unexpected "|" in command`},
		{"no end", `{{ if .x }}{{ .y }}`, `1:1: {{ if }}, {{ range }} or {{ with }} is not closed; close it with {{ end }}`},
		{"braces in a text", `{{ "}}" }}{{ ) }}`, `1:11: unexpected right paren`},
		{"unknown function", `{{ .x | lowr }}`, `1:9: unknown function lowr; did you mean lower?`},
		{"unknown function, in another case", `{{ .x | toJson }}`, `1:9: unknown function toJson; did you mean json?`},
		{"unknown function, far off", `x {{ env }}`, `1:6: unknown function env; want one of and, base, default, `},
		{"unknown function, as an argument", `{{ print (uper .x) }}`, `1:11: unknown function uper`},
		{"unknown function, in a branch", `{{ if .x }}{{ else }}{{ range .y }}{{ nope }}{{ end }}{{ end }}`, `1:39: unknown function nope`},
		{"unknown function, in a condition", `{{ with nope .x }}{{ end }}`, `1:9: unknown function nope`},
		{"unknown function, in a definition", `{{ define "t" }}{{ nope }}{{ end }}`, `1:20: unknown function nope`},
		{"unknown function, of ours", `{{ .x | lookup }}`, `1:9: unknown function lookup`},
		{"unknown function, before a field", `{{ (nope .x).y }}`, `1:5: unknown function nope`},
		{"two at once", `{{ nope }}{{ nada }}`, "1:4: unknown function nope"},
		{"unknown fact", `{{ event.repo }}`, `1:4: event has no repo; want one of action, attempt, delivery_id, `},
		{"unknown fact, misspelt", `{{ event.repositry | default "x" }}`, `1:4: event has no repositry; did you mean repository?`},
		{"unknown template", `{{ template "t" . }}`, `1:13: template "t" is not defined`},
		{"default of nothing", `{{ default "x" }}`, `1:4: default: 1 arguments, want 2; write {{ .x | default "none" }}`},
		{"default by nothing", `{{ .x | default }}`, `1:9: default: 1 arguments, want 2`},
		{"json of two", `{{ json .x .y }}`, `1:4: json: 2 arguments, want 1`},
		{"trunc by a text", `{{ .x | trunc "7" }}`, `1:15: trunc: "7" is not a whole number; write {{ .x | trunc 7 }}`},
		{"trunc by a fraction", `{{ .x | trunc 7.5 }}`, `1:15: trunc: 7.5 is not a whole number`},
		{"replace by a number", `{{ .x | replace "a" 1 }}`, `1:21: replace: 1 is not a text; write {{ .x | replace "/" "-" }}`},
		{"replace of nothing", `{{ .x | replace "" "a" }}`, `1:17: replace: "" is not a text of some length`},
		{"replace without a text", `{{ replace "a" "b" }}`, `1:4: replace: 2 arguments, want 3`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseCommand([]string{"true", tt.template}, false)
			var field *queue.FieldError
			if !errors.As(err, &field) || field.Line == 0 || !strings.HasPrefix(err.Error(), "run.command[1]: "+tt.want) {
				t.Errorf("parseCommand(%s) error = %v, want run.command[1]: %s", tt.template, err, tt.want)
			}
		})
	}
}

func TestRenderBadPayload(t *testing.T) {
	command, err := parseCommand([]string{"true", "{{ .x }}"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{`, `null`, `[]`, `"x"`, `1`} {
		if argv, err := render(command, task(""), []byte(body)); kindOf(err) != "permanent" {
			t.Errorf("render of payload %s = %q, %v; want permanent", body, argv, err)
		}
	}
}

// A payload of as many values as no webhook has is not decoded, and a command
// without templates gets it.
func TestRenderTooManyValues(t *testing.T) {
	command, err := parseCommand([]string{"true", "{{ .x }}"}, false)
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte(`{"x":1,"a":[` + strings.Repeat("0,", queue.MaxValues) + `0]}`)
	argv, err := render(command, task(""), payload)
	want := "argument 1: payload: 1048580 values, more than the 1048576 that templates look into; the command can read it from its standard input"
	if kindOf(err) != "permanent" || err.Error() != want {
		t.Errorf("render = %q, %v; want permanent: %s", argv, err, want)
	}
	if argv, err := render(command[:1], task(""), payload); err != nil || argv[0] != "true" {
		t.Errorf("render without templates = %q, %v", argv, err)
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"x", "{{ .a }}", "{{", "{{ define \"x\" }}{{ . }}{{ end }}", "{{ range .x }}{{ break }}{{ end }}", "{{- 1 -}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args, err := parseCommand([]string{"true", text}, false)
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
		`{{ .a.b.c | default "none" }}`, `{{ default .b .a.b }}`, `{{ .a | json }}`, `{{ .a | trunc 3 }}`, `{{ .a | base | lower }}`,
		`{{ .a | replace "/" .b }}`, `{{ .a | lower | default .b }}`, `{{ printf "%d" .a }}`, `{{ slice .a 1 }}`, `{{ .a | html }}`, `{{ event.repository }}{{ .a }}`, `--a={{ .a }}`,
	}
	var commands [][]pattern
	for _, text := range templates {
		command, err := parseCommand([]string{"true", text}, false)
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
	command, err := parseCommand([]string{"true", "--repo", "{{ .repository.full_name }}", "--pr", "{{ .number }}"}, false)
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

// TestTemplatesCompareNumbers, and keep those that no int64 holds as they are.
func TestTemplatesCompareNumbers(t *testing.T) {
	for text, want := range map[string]string{
		`{{ if gt .n 1 }}more than {{ sub1 }}{{ end }}`: "", // no such function: told at load
		`{{ if gt .n 41 }}{{ .n }}{{ end }}`:            "42",
		`{{ if eq .list.a 7 }}seven{{ end }}`:           "seven",
		`{{ .big }} {{ .float }} {{ .huge | json }}`:    "9223372036854775807 1.50 123456789012345678901234567890",
	} {
		args, err := parseCommand([]string{"x", text}, false)
		if want == "" {
			if err == nil {
				t.Errorf("%s: want an error", text)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		payload := `{"n":42,"list":{"a":7},"big":9223372036854775807,"float":1.50,"huge":123456789012345678901234567890}`
		got, err := render(args, task(payload), []byte(payload))
		if err != nil || got[1] != want {
			t.Errorf("%s: got %q, %v; want %q", text, got, err, want)
		}
	}
}

// TestTemplatesEnd: whatever the payload, a text ends in time and memory.
func TestTemplatesEnd(t *testing.T) {
	many := `{"a":[` + strings.Repeat("0,", 5_000) + `0],"s":"` + strings.Repeat("x", 1<<10) + `"}`
	for name, text := range map[string]string{
		"loops within loops, silent":       "{{ range .a }}{{ range $.a }}{{ range $.a }}{{ end }}{{ end }}{{ end }}",
		"a text that doubles":              "{{ $s := .s }}{{ range .a }}{{ $s = print $s $s }}{{ end }}",
		"a text that grows by a format":    `{{ $s := .s }}{{ range .a }}{{ $s = printf "%s%s" $s $s }}{{ end }}`,
		"a text that escapes grow":         `{{ $s := "&" }}{{ range .a }}{{ $s = html $s }}{{ $s = print $s $s }}{{ end }}`,
		"a template that calls itself":     `{{ define "x" }}{{ template "x" . }}{{ template "x" . }}{{ end }}{{ template "x" . }}`,
		"a template that is called often":  `{{ define "x" }}{{ end }}{{ range .a }}{{ range $.a }}{{ template "x" . }}{{ end }}{{ end }}`,
		"a loop over the characters, deep": `{{ range .a }}{{ range $.a }}{{ if false }}x{{ end }}{{ end }}{{ end }}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := parseCommand([]string{"a", text}, false)
			if err != nil {
				t.Fatal(err)
			}
			got, err := render(h, task(many), []byte(many))
			if kindOf(err) != "permanent" || !strings.Contains(err.Error(), "argument 1: ") {
				t.Errorf("got %.100q, error %.200v, want a permanent one", got, err)
			}
		})
	}
	h, err := parseCommand([]string{"a", "{{ range .a }}{{ . }}{{ end }}"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := render(h, task(many), []byte(many)); err != nil || len(got[1]) != 5_001 {
		t.Errorf("a long list: got %d bytes, error %v; want 5001", len(got[1]), err)
	}
}

// TestPayloadIsNoTemplate: what looks like a template in a payload is text.
func TestPayloadIsNoTemplate(t *testing.T) {
	const body = `{"s":"{{ event.id }}{{ .s }}{{ range . }}","{{ .s }}":"{{"}`
	h, err := parseCommand([]string{"a", `x{{ .s }}`, `{{ index . "{{ .s }}" }}`, `x{{ . | json }}`}, false)
	if err != nil {
		t.Fatal(err)
	}
	got, err := render(h, task(body), []byte(body))
	want := []string{"a", "x{{ event.id }}{{ .s }}{{ range . }}", "{{", `x{"s":"{{ event.id }}{{ .s }}{{ range . }}","{{ .s }}":"{{"}`}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, error %v; want %q", got, err, want)
	}
}
