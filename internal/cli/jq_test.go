package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

// filtered prints events through an expression.
func filtered(t *testing.T, format outputFormat, tty bool, expression string, events ...*queue.Event) (string, error) {
	t.Helper()
	a, out := newOutput(format)
	a.OutTTY = tty
	var err error
	if a.jq, err = compileJQ(t.Context(), a, expression); err != nil {
		return "", err
	}
	l := newEventList(a)
	for _, e := range events {
		if err := l.Add(e); err != nil {
			return "", err
		}
	}
	err = l.Close()
	must(a.Out.Flush())
	return out.String(), err
}

func TestJQ(t *testing.T) {
	t.Setenv("ORCHESTRATE_TEST_SECRET", "hunter2")
	for _, tt := range []struct {
		name, expression string
		format           outputFormat
		tty              bool
		want             string
	}{
		{"one array", "length", formatJSON, false, "2\n"},
		{"each by itself", ".id", formatNDJSON, false, "1842\n1841\n"},
		{"a text is raw", ".[].event_type", formatJSON, false, "pull_request\npush\n"},
		{"also with ndjson", ".event_type", formatNDJSON, false, "pull_request\npush\n"},
		{"not what a terminal obeys", ".[0] | .sender, .error_message", formatJSON, false, "octocat\ndeploy: exit 1:\n[2Jdenied\n"},
		{"tabs stay", `.[0] | [.id, .action] | @tsv`, formatJSON, false, "1842\topened\n"},
		{"null", ".[1].sender", formatJSON, false, "null\n"},
		{"JSON in a pipe is a line", ".[0] | {id, sender}", formatJSON, false, `{"id":1842,"sender":"octo\u202ecat"}` + "\n"},
		{"on a terminal it is indented", ".[0] | {id, routes}", formatJSON, true, "{\n  \"id\": 1842,\n  \"routes\": [\n    \"deploy\",\n    \"yes\"\n  ]\n}\n"},
		{"ndjson is a line there, too", "{id}", formatNDJSON, true, "{\"id\":1842}\n{\"id\":1841}\n"},
		{"yaml", ".[] | {id, routes}", formatYAML, false, "id: 1842\nroutes:\n  - deploy\n  - \"yes\"\n---\nid: 1841\nroutes: []\n"},
		{"a text in yaml", ".[0].routes[1]", formatYAML, false, "\"yes\"\n"},
		{"nothing", "empty", formatJSON, false, ""},
		{"halt", "1, halt, 2", formatJSON, false, "1\n"},
		{"no environment", "env, $ENV", formatJSON, false, "{}\n{}\n"},
	} {
		got, err := filtered(t, tt.format, tt.tty, tt.expression, sample()...)
		if err != nil || got != tt.want {
			t.Errorf("%s: %s: got %q, %v; want %q", tt.name, tt.expression, got, err, tt.want)
		}
	}
}

func TestJQOnNothing(t *testing.T) {
	for format, want := range map[outputFormat]string{formatJSON: "0\n", formatNDJSON: "", formatYAML: "0\n"} {
		if got, err := filtered(t, format, false, "length"); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", format, got, err, want)
		}
	}
}

func TestJQKeepsBigNumbers(t *testing.T) {
	a, out := newOutput(formatJSON)
	var err error
	if a.jq, err = compileJQ(t.Context(), a, ".n, .n + 1, .f"); err != nil {
		t.Fatal(err)
	}
	if err := a.printJSON(map[string]any{"n": int64(9007199254740993), "f": 1.5}); err != nil {
		t.Fatal(err)
	}
	must(a.Out.Flush())
	if want := "9007199254740993\n9007199254740994\n1.5\n"; out.String() != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestJQRefuses(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()} // without a database: what is refused has not opened it
	must(os.WriteFile(f.path("config.yaml"), nil, 0o600))
	for _, tt := range []struct{ expression, want string }{
		{".[", `--jq ".[": 1:3: unexpected EOF`},
		{".foo bar", `--jq ".foo bar": 1:6: unexpected token "bar"`},
		{".[\"é\"] |\n  .a } ", `2:6: unexpected token "}"`},
		{`"a`, `1:3: unterminated string literal`},
		{"nonsense", "function not defined: nonsense/0"},
		{"$x", "variable not defined: $x"},
		{"input", "input(s)/0 is not allowed"},
		{`import "a" as a; .`, `cannot load module: "a"`},
		{" ", "--jq is empty; give an expression"},
	} {
		r := f.run("events", "list", "--jq", tt.expression)
		var told struct{ Error string }
		if err := json.Unmarshal([]byte(r.stderr), &told); err != nil || r.code != 2 || r.out != "" || !strings.Contains(told.Error, tt.want) {
			t.Errorf("%q: exit code %d, %s; want 2 and %s", tt.expression, r.code, r.stderr, tt.want)
		}
	}
	for _, format := range []string{"table", "wide", "tsv", "name"} {
		f.run("events", "list", "--jq", ".", "-o", format).want(t, 2, "", "--jq filters JSON; leave -o "+format+" away")
	}
}

func TestJQErrors(t *testing.T) {
	for expression, want := range map[string]string{
		".[0].id | keys":        "--jq: keys cannot be applied to: number (1842)",
		`error("not today")`:    "not today",
		`1, ("x" | tonumber)`:   "--jq: tonumber cannot be applied to",
		`"stop" | halt_error`:   "stop",
		".[] | .id[\"number\"]": "--jq: expected an object but got: number (1842)",
	} {
		_, err := filtered(t, formatJSON, false, expression, sample()...)
		if exitCodeOf(err) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", expression, err, want)
		}
	}
}

func TestEndlessJQIsStopped(t *testing.T) {
	for _, expression := range []string{"def f: f; f", "last(range(infinite))", "range(infinite)"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		a, _ := newOutput(formatJSON)
		jq, err := compileJQ(ctx, a, expression)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- jq.run(nil) }()
		runtime.Gosched()
		cancel(signalError{os.Interrupt})
		if err := <-done; exitCodeOf(err) != 130 {
			t.Errorf("%s: ended with %v, want the signal", expression, err)
		}
	}
}

func TestJQStopsAtAFullDisk(t *testing.T) {
	a, _ := newOutput(formatJSON)
	a.Out.Reset(full{})
	jq, err := compileJQ(t.Context(), a, "range(infinite)")
	if err != nil {
		t.Fatal(err)
	}
	if err := jq.run(nil); err == nil || exitCodeOf(err) != 1 {
		t.Errorf("got %v, want the error of the write", err)
	}
}

func TestListThatIsTooLongForOneArray(t *testing.T) {
	a, _ := newOutput(formatJSON)
	jq, err := compileJQ(t.Context(), a, ".")
	if err != nil {
		t.Fatal(err)
	}
	j := &jqArray{filter: jq, size: maxJQArray - 1}
	must(j.add([]byte("1")))
	if err := j.add([]byte("2")); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), "-o ndjson") {
		t.Errorf("got %v, want what to do instead", err)
	}
}

func FuzzJQ(f *testing.F) {
	for _, s := range []string{".", ".[", "é(", "\"\\(", "{a:", ".a.b|@base64", "\x00", "reduce .[] as $x (0;", "1 as [$a] ?// $b | $a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		if _, err := compileJQ(t.Context(), &App{}, expression); err != nil && exitCodeOf(err) != 2 {
			t.Errorf("%q: %v is no usage error", expression, err)
		}
	})
}
