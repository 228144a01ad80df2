package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant %s:\n%s", got, path, want)
	}
}

// sample is one event with everything, and one with nothing.
func sample() []*queue.Event {
	return []*queue.Event{
		{
			ID: 1842, Source: "github", DeliveryID: "72d3162e-cc78-11e3-81ab-4c9367dc0958", EventType: "pull_request", Action: "opened",
			Repository: "acme/api", Sender: "octo\u202ecat", Ref: "fix/a\tb\\c", Number: 7, HookID: 1, Status: queue.StatusDeadLetter,
			NDead: 1, RetryCount: 3, MaxRetries: 3, ErrorMessage: "deploy: exit 1:\n\x1b[2Jdenied", NextRetryAt: 0,
			ReceivedAt: aNow, ProcessedAt: aNow + 1500, CreatedAt: aNow, UpdatedAt: aNow + 1500, DuplicateCount: 2, LastDuplicateAt: aNow + 9,
			BodySize: 2, BodySHA256: strings.Repeat("0a", 32), Routes: []string{"deploy", "yes"},
		},
		{ID: 1841, Source: "github", DeliveryID: "010", EventType: "push", Status: queue.StatusPending, ReceivedAt: aNow - 1, BodySHA256: "1e5", Routes: []string{}},
	}
}

func sampleDetail() *queue.Detail {
	code := 1
	claim := queue.Claim{JobKey: queue.JobKey{EventID: 1842, Route: "deploy"}, Seq: 4, WorkerID: "vm:7:ed8ec89f"}
	return &queue.Detail{
		Event: *sample()[0],
		Jobs: []queue.Job{{
			Claim: claim, Status: queue.StatusDeadLetter, RetryCount: 3, MaxRetries: 3, ErrorMessage: "exit 1: denied", DueAt: aNow,
			StartedAt: aNow + 1000, FinishedAt: aNow + 1500,
		}},
		Attempts: []queue.Attempt{{
			Claim: claim, Ending: queue.EndDeadLetter, StartedAt: aNow + 1000, FinishedAt: aNow + 1500, ExitCode: &code,
			ErrorMessage: "exit 1: denied", Output: "deploying\n  permission denied\n", Version: "v1.0.0", ConfigHash: "c0ffee",
		}},
	}
}

// asked is an App as the flag -o makes it.
func asked(format outputFormat) (*App, *bytes.Buffer) {
	a, out := newOutput(format)
	if format == formatWide {
		a.output, a.wide = formatTable, true
	}
	return a, out
}

func listed(t *testing.T, a *App, out *bytes.Buffer, events ...*queue.Event) string {
	t.Helper()
	l := newEventList(a)
	for _, e := range events {
		if err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	must(a.Out.Flush())
	return out.String()
}

func TestListFormats(t *testing.T) {
	for _, f := range outputFormats() {
		a, out := asked(f)
		golden(t, "list."+string(f), listed(t, a, out, sample()...))
	}
}

func TestShowFormats(t *testing.T) {
	for _, f := range []outputFormat{formatTable, formatWide, formatJSON, formatNDJSON, formatYAML} {
		a, out := asked(f)
		s := &shown{Detail: sampleDetail(), Headers: map[string]string{"Content-Type": "text/x; a=b"}, Payload: json.RawMessage(`{"n":9007199254740993,"e":{},"on":[[1,-2.50e+3],"\u2028😀\ud83d"]}`)}
		var err error
		if a.output == formatTable {
			err = page(a, s.Detail, false)
		} else {
			err = a.printJSON(s)
		}
		if err != nil {
			t.Fatal(err)
		}
		must(a.Out.Flush())
		golden(t, "show."+string(f), out.String())
	}
}

func TestEmptyLists(t *testing.T) {
	heads := "ID\tSTATUS\tEVENT\tREPO\tNUMBER\tREF\tSENDER\tROUTES\tRETRIES\tNEXT_RETRY\tRECEIVED\tPROCESSED\tDUPLICATES\tSOURCE\tDELIVERY\tERROR\n"
	for format, want := range map[outputFormat]string{
		formatTable: "", formatWide: "", formatJSON: "[]\n", formatNDJSON: "", formatYAML: "[]\n", formatName: "", formatTSV: heads,
	} {
		a, out := asked(format)
		if got := listed(t, a, out); got != want {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
}

func TestNoHeaders(t *testing.T) {
	for _, f := range []outputFormat{formatTable, formatWide, formatTSV} {
		a, out := asked(f)
		whole := listed(t, a, out, sample()...)
		a, out = asked(f)
		a.noHeaders = true
		got := listed(t, a, out, sample()...)
		if strings.Contains(got, "STATUS") || strings.Count(got, "\n") != strings.Count(whole, "\n")-1 || got[:4] != "1842" {
			t.Errorf("%s without its headings: got %q", f, got)
		}
	}
}

func TestTSVOnATerminal(t *testing.T) {
	a, out := asked(formatTSV)
	whole := listed(t, a, out, sample()...)
	a, out = asked(formatTSV)
	a.OutTTY, a.Width, a.color, a.times = true, 20, colorAlways, timeRelative
	if got := listed(t, a, out, sample()...); got != whole {
		t.Errorf("on a terminal: got %q, want the same as in a pipe: %q", got, whole)
	}
}

func TestTimesAsAskedFor(t *testing.T) {
	for _, tt := range []struct {
		name  string
		tty   bool
		times timeMode
		want  string
	}{
		{"terminal", true, "", "3m"},
		{"pipe", false, "", "2026-10-24T11:57:00.000Z"},
		{"terminal, rfc3339", true, timeRFC3339, "2026-10-24T11:57:00.000Z"},
		{"pipe, relative", false, timeRelative, "3m"},
	} {
		a := &App{OutTTY: tt.tty, times: tt.times}
		then := aNow - 3*60_000
		if got := a.when(then, aNow); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if got, relative := a.timeColumn("AGE", "RECEIVED"), tt.want == "3m"; relative != (got == "AGE") {
			t.Errorf("%s: heading %s", tt.name, got)
		}
		if got := a.moment(then, aNow); strings.Contains(got, "3m ago") != (tt.want == "3m") {
			t.Errorf("%s: on a page %q", tt.name, got)
		}
	}
}

func TestEscapeTSV(t *testing.T) {
	for in, want := range map[string]string{
		"plain é": "plain é", "a\tb": `a\tb`, "a\nb\r": `a\nb\r`, `a\tb`: `a\\tb`, "\x1b[2J": `\u001b[2J`, "\u202e": `\u202e`, "": "",
	} {
		if got := escapeTSV(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestColourWanted(t *testing.T) {
	for _, tt := range []struct {
		name     string
		mode     colorMode
		terminal bool
		env      string
		want     bool
	}{
		{"terminal", colorAuto, true, "", true},
		{"pipe", colorAuto, false, "", false},
		{"always in a pipe", colorAlways, false, "NO_COLOR=1 TERM=dumb", true},
		{"never", colorNever, true, "CLICOLOR_FORCE=1", false},
		{"NO_COLOR", colorAuto, true, "NO_COLOR=1", false},
		{"NO_COLOR is empty", colorAuto, true, "NO_COLOR=", true},
		{"dumb", colorAuto, true, "TERM=dumb", false},
		{"forced", colorAuto, false, "CLICOLOR_FORCE=1 TERM=dumb", true},
		{"not forced", colorAuto, false, "CLICOLOR_FORCE=0", false},
		{"forced and forbidden", colorAuto, false, "CLICOLOR_FORCE=1 NO_COLOR=1", false},
	} {
		env := map[string]string{}
		for _, word := range strings.Fields(tt.env) {
			name, value, _ := strings.Cut(word, "=")
			env[name] = value
		}
		if got := tt.mode.wanted(tt.terminal, func(name string) string { return env[name] }); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestColourOfTheLog(t *testing.T) {
	for _, tt := range []struct {
		mode     colorMode
		terminal bool
		want     bool
	}{{colorAlways, false, true}, {colorNever, true, false}, {colorAuto, true, true}, {colorAuto, false, false}} {
		var b bytes.Buffer
		a := &App{Err: &b, ErrTTY: tt.terminal, output: formatTable, color: tt.mode, Getenv: func(string) string { return "" }}
		var level slog.LevelVar
		log, err := a.logger(&config.Config{}, &level, nil)
		if err != nil {
			t.Fatal(err)
		}
		log.Warn("lease is late")
		if got := strings.Contains(b.String(), "\x1b["); got != tt.want {
			t.Errorf("%s, terminal: %v: %q, want colour: %v", tt.mode, tt.terminal, b.String(), tt.want)
		}
	}
}

func TestFormatsThatACommandDoesNotHave(t *testing.T) {
	t.Setenv("ORCHESTRATE_CONFIG", "/no/such/file") // nothing is read before the refusal
	for args, want := range map[string]string{
		"version -o name":                      "version has no -o name: want one of table, wide, json, ndjson, yaml",
		"events show 1 -o tsv":                 "show has no -o tsv: want one of table, wide, json, ndjson, yaml",
		"events retry 1 -o name":               "retry has no -o name: ",
		"status -o tsv":                        "status has no -o tsv: ",
		"events requeue-dead --all -y -o name": "-o name lists events, with --dry-run; what was changed is only counted",
		"serve --jq .":                         "serve prints no JSON that --jq could filter",
		"events list -o csv":                   `--output "csv": want one of table, wide, json, ndjson, yaml, name, tsv`,
		"events list --color sometimes":        `--color "sometimes": want one of auto, always, never`,
		"events list --time local":             `--time "local": want one of relative, rfc3339`,
	} {
		var stderr bytes.Buffer
		a := &App{In: strings.NewReader(""), Out: bufio.NewWriter(&stderr), Err: &stderr, Getenv: os.Getenv}
		if code := a.Run(t.Context(), strings.Fields(args)); code != 2 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: exit code %d, %q; want 2 and %q", args, code, stderr.String(), want)
		}
	}
}

func TestNextPageAsksForTheSame(t *testing.T) {
	f := newFixture(t, 2, "deploy")
	r := f.run("events", "list", "--limit", "1", "-o", "wide", "--no-headers", "--color", "always", "--time", "rfc3339")
	r.want(t, 0, "*", "--output wide --no-headers --color always --time rfc3339 ")
	f.run("events", "list", "--limit", "1", "--jq", ".[].id").want(t, 0, "2\n", "--jq '.[].id' ")
}
