package cli

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"orchestrate/internal/queue"
)

// forged is a line that only we may print. What a handler printed has lines, too,
// and is set in; the texts of --jq are for programs.
const forged = "level=ERROR msg=forged"

// nasty is text that a terminal would obey, that reorders or hides what
// stands beside it, that breaks lines, or that is no text.
func nasty(field string) string {
	return field + "\x1b[31;1m\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\\x1bPq\x1b\\\x1b[2J\x1b[6n" + // CSI, OSC, DCS
		"\x00\x07\x08\x0b\x0c\x0e\x7f" +
		"\u0080\u0085\u0090\u009b31m\u009d0;title\u009c" + // C1
		"\u061c\u200b\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u00ad" +
		"\u2028\u2029\r\n" + forged + "\n\tx" +
		"\U000e0001\U000e0041" + // tags
		"'\"\\%s%n$(id)`id`{{ .x }}<b>&"
}

// scan finds what may reach nobody raw. Lines are what an output is made of, and
// tabs what a tsv is; carriage returns are neither.
func scan(t *testing.T, what, out string) {
	t.Helper()
	if !utf8.ValidString(out) {
		t.Errorf("%s: no valid UTF-8: %q", what, out)
	}
	for i, r := range out {
		if r != '\n' && r != '\t' && (unicode.Is(unicode.C, r) || unicode.In(r, unicode.Zl, unicode.Zp)) {
			t.Errorf("%s: %U raw in %q", what, r, out[max(0, i-60):min(len(out), i+60)])
			return
		}
	}
	if strings.HasPrefix(out, forged) || strings.Contains(out, "\n"+forged) {
		t.Errorf("%s: a line was forged: %q", what, out)
	}
}

// nastyFixture has an event with a failed job, a dead one and a silent worker,
// all of whose texts are hostile, as from a database that something else wrote.
func nastyFixture(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t, 0)
	now, ctx := queue.Now(), t.Context()
	route, worker := nasty("route"), queue.Text(nasty("worker"))
	e := &queue.Event{
		Source: nasty("source"), DeliveryID: nasty("delivery"), EventType: nasty("event"), Action: queue.Text(nasty("action")),
		Repository: queue.Text(nasty("repo")), Sender: queue.Text(nasty("sender")), Ref: queue.Text(nasty("ref")),
		ReceivedAt: now, BodySize: 2, BodySHA256: strings.Repeat("0", 64),
	}
	body, err := json.Marshal(map[string]string{nasty("key"): nasty("value")})
	if err != nil {
		t.Fatal(err)
	}
	raw := strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029").Replace(string(body)) // as a sender may write it
	p := &queue.Payload{Headers: map[string]string{"Content-Type": "application/json", nasty("Header"): nasty("value")}, Body: []byte(raw)}
	jobs := []queue.Job{
		{Claim: queue.Claim{JobKey: queue.JobKey{Route: route}}, Status: queue.StatusPending, MaxRetries: 3, DueAt: now},
		{Claim: queue.Claim{JobKey: queue.JobKey{Route: nasty("other")}}, Status: queue.StatusDeadLetter, MaxRetries: 3, DueAt: now, MatchPending: true, ErrorMessage: queue.Text(nasty("reason"))},
	}
	if _, err := f.store.Insert(ctx, queue.Insertion{Event: e, Payload: p, Jobs: jobs}); err != nil {
		t.Fatal(err)
	}
	w := queue.Worker{
		ID: worker, Host: nasty("host"), PID: 1, Version: nasty("version"), Routes: []string{route}, Slots: 1,
		StartedAt: now, HeartbeatAt: now, ConfigHash: queue.Text(nasty("hash")),
	}
	w.ReloadError = queue.Text(nasty("reload"))
	if err := f.store.Register(ctx, w, ""); err != nil {
		t.Fatal(err)
	}
	claimed, err := f.store.Claim(ctx, queue.ClaimParams{Route: route, Now: now, DueBy: now, Limit: 1, WorkerID: worker})
	if err != nil || len(claimed) != 1 {
		t.Fatalf("claimed %d, error %v", len(claimed), err)
	}
	err = f.store.Settle(ctx, claimed[0].Claim, queue.Settlement{
		Status: queue.StatusFailed, Ending: queue.EndFailed, RetryCount: 1, DueAt: now, FinishedAt: now,
		ErrorMessage: queue.Text(nasty("error")), Result: queue.Result{Output: []byte(nasty("output"))}, Version: nasty("version"), ConfigHash: "abc",
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestNothingHostileIsPrinted scans what commands print, on both streams, of an
// event all of whose texts are hostile, and of hostile arguments.
func TestNothingHostileIsPrinted(t *testing.T) {
	f := nastyFixture(t)
	x := strings.NewReplacer("\x00", "", "\r\n", "", "\n", "").Replace(nasty("x")) // an argument can't hold NUL, and lines in it are the operator's
	formats := [][]string{nil, {"-o", "wide"}, {"-o", "json"}, {"-o", "ndjson"}, {"-o", "yaml"}, {"-o", "name"}, {"-o", "tsv"}, {"--jq", ".."}, {"-o", "yaml", "--jq", ".."}}
	for _, command := range [][]string{
		{"events", "list"},
		{"events", "list", "--limit", "1", "--repo", x},
		{"events", "show", "1"},
		{"events", "show", "1", "--attempts"},
		{"events", "show", "1", "--payload", "--headers"},
		{"events", "show", x},
		{"events", "show", "1", "--" + x},
		{"events", "list", "--status", x},
		{"events", "list", "--since", x},
		{"events", "list", "--cursor", x},
		{"events", "list", "--route", x},
		{"events", "list", "--delivery", x},
		{"events", "list", "--attempts", x},
		{"events", "list", "--match", x},
		{"events", "list", "--sort", x},
		{"events", "list", "--" + x},
		{"events", "retry", x},
		{"events", "retry", "1", "--route", x, "--dry-run"},
		{"events", "retry", "1", "--dry-run"},
		{"events", "requeue-dead", "--all", "--dry-run"},
		{"events", "requeue-dead", "--repo", x, "--yes"},
		{"events", "cancel", "--repo", nasty("repo"), "--dry-run"},
		{"events", "send", x},
		{"events", "send", "push", "--payload", x},
		{"cleanup", "--older-than", x},
		{"status"},
		{"routes", "list"},
		{"routes", "test", "1"},
		{"routes", "test", x},
		{"routes", "test", "--payload", x, "--event", x},
		{"config", "show"},
		{"config", "validate", "--config", x},
		{x},
		{"events", x},
		{"help", x},
		{"migrate", "copy", x, x},
		{"events", "list", "--color", x},
		{"events", "list", "--database", x},
		{"events", "list", "--timeout", x},
		{"completion", x},
		{"__complete", "events", "list", "--route", ""},
		{"__complete", "events", "show", ""},
	} {
		for _, format := range formats {
			for _, width := range []int{0, 80} {
				f.width = width
				args := append(append([]string{}, command...), format...)
				if width > 0 {
					args = append(args, "--color", "never") // colours are ours, and raw
				}
				r := f.run(args...)
				if slices.Contains(format, "--jq") {
					r.out = strings.ReplaceAll(r.out, forged, "")
				}
				what := fmt.Sprintf("%q on %d columns", args, width)
				scan(t, what+", stdout", r.out)
				scan(t, what+", stderr", r.stderr)
			}
		}
	}
}

// TestHostileTextIsWholeInDocuments: what is escaped is not lost.
func TestHostileTextIsWholeInDocuments(t *testing.T) {
	f := nastyFixture(t)
	r := f.run("events", "show", "1", "-o", "json", "--payload", "--headers")
	var got struct {
		DeliveryID string            `json:"delivery_id"`
		Sender     string            `json:"sender"`
		Headers    map[string]string `json:"headers"`
		Payload    map[string]string `json:"payload"`
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"delivery id": {got.DeliveryID, nasty("delivery")}, "sender": {got.Sender, nasty("sender")},
		"header": {got.Headers[nasty("Header")], nasty("value")}, "payload": {got.Payload[nasty("key")], nasty("value")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %q, want %q", what, pair[0], pair[1])
		}
	}
}

// TestHostileConfiguration: a mistake is quoted, and what quotes it is harmless.
func TestHostileConfiguration(t *testing.T) {
	f := newFixture(t, 0)
	quoted, err := json.Marshal(nasty("x")) // YAML reads JSON's escapes
	if err != nil {
		t.Fatal(err)
	}
	x := string(quoted)
	for _, text := range []string{
		"listen: " + x, x + ": 1", "routes: [{name: " + x + ", on: [push], run: {command: [a]}}]", "on_redelivery: " + x,
		"routes: [{name: a, on: [" + x + "], run: {command: [a]}}]", "routes: [{name: a, on: [push], if: " + x + ", run: {command: [a]}}]",
		"routes: [{name: a, on: [push], run: {command: [" + x + "]}}]", "routes: [{name: a, on: [push], run: {command: [a], dir: " + x + "}}]",
		"routes: [{name: a, on: [push], run: {command: [a], env: {" + x + ": " + x + "}}}]", "routes: [{name: a, on: [push], forward: {url: " + x + "}}]",
		"routes: [{name: a, on: [push], forward: {url: 'https://a.example', headers: {" + x + ": " + x + "}}}]",
		"routes: [{name: a, on: [push], filter: {" + x + ": [" + x + "]}, run: {command: [a]}}]", "log: {level: " + x + "}", "retry: {base: " + x + "}",
		"secrets: [" + x + "]", "sources: [{name: " + x + ", path: " + x + ", secrets: [" + x + "]}]", "database: " + x, "\x1b[31m: [", "a: \u202e\n  b",
	} {
		if err := os.WriteFile(f.path("config.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"config", "validate"}, {"config", "validate", "-o", "json"}, {"config", "show"}, {"config", "show", "--origins"}, {"routes", "list", "-o", "yaml"}} {
			r := f.run(args...)
			scan(t, fmt.Sprintf("%q of %q, stdout", args, text), r.out)
			scan(t, fmt.Sprintf("%q of %q, stderr", args, text), r.stderr)
		}
	}
	elsewhere := filepath.Join(f.dir, strings.NewReplacer("\x00", "", "/", "").Replace(nasty("file")))
	if r := f.run("events", "list", "--database", elsewhere[:min(len(elsewhere), 200)]); r.code == 0 {
		t.Error("a database of a hostile name was found")
	} else {
		scan(t, "the name of a database", r.stderr)
	}
}

// TestNothingHostileIsLogged scans both kinds of log with hostile text in each
// place of a record.
func TestNothingHostileIsLogged(t *testing.T) {
	x := nasty("x")
	for name, log := range map[string]func(*slog.Logger){
		"attributes": func(log *slog.Logger) {
			log.Info("m", x, x, "error", fmt.Errorf("%s", x), "list", []string{x}, "map", map[string]any{x: x}, "bytes", []byte(x),
				"json", json.RawMessage("\"\u202e\u2028\""), slog.Group(x, x, x))
		},
		"scopes": func(log *slog.Logger) {
			log.With(x, x).WithGroup(x).Info("m", "text", queue.Text(x), "struct", struct{ X string }{x})
		},
	} {
		js, text := logged(t, log)
		scan(t, name+" as JSON", js)
		scan(t, name+" as text", text)
	}
}
