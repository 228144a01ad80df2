package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

// fixture is a database and a configuration to run commands on.
type fixture struct {
	t     *testing.T
	dir   string
	store queue.Store
	width int    // of the terminal; 0: none
	reply string // what is typed on the terminal
}

// newFixture has events 1 to n, each with a job of every route given. Their
// configuration knows the routes.
func newFixture(t *testing.T, n int, routes ...string) *fixture {
	t.Helper()
	for _, name := range []string{"ORCHESTRATE_CONFIG", "GITHUB_WEBHOOK_SECRET", "NO_COLOR", "CLICOLOR_FORCE"} {
		t.Setenv(name, "")
		must(os.Unsetenv(name))
	}
	t.Setenv("TERM", "xterm")
	f := &fixture{t: t, dir: t.TempDir()}
	var yaml strings.Builder
	yaml.WriteString("routes:\n")
	cfg := queue.Config{Matcher: anyEvent(routes)}
	for _, r := range routes {
		fmt.Fprintf(&yaml, "  - {name: %s, on: [\"*\"], run: {command: [\"true\"]}}\n", r)
		cfg.Routes = append(cfg.Routes, queue.Route{Name: r, Retry: queue.DefaultRetry()})
	}
	if err := os.WriteFile(f.path("config.yaml"), []byte(yaml.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Options{Database: f.path("orchestrate.db"), Create: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(s.Close()) })
	f.store = s
	q := queue.New(s, &cfg, slog.New(slog.DiscardHandler))
	for i := range n {
		f.receive(q, i+1)
	}
	return f
}

// anyEvent are routes that want every event.
type anyEvent []string

func (a anyEvent) Match(*queue.Event, *queue.Payload) []queue.Match {
	all := make([]queue.Match, len(a))
	for i, r := range a {
		all[i].Route = r
	}
	return all
}

func (anyEvent) Wants(string, *queue.Event, *queue.Payload) (bool, error) { return true, nil }

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) receive(q *queue.Queue, i int) {
	f.t.Helper()
	e := &queue.Event{
		Source: "github", DeliveryID: fmt.Sprintf("%08x-cc78-11e3-81ab-4c9367dc0958", i), EventType: "pull_request", Action: "opened",
		Repository: "acme/api", Sender: "octocat", ReceivedAt: queue.Now(), BodySize: 2, BodySHA256: strings.Repeat("0", 64),
	}
	p := &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: []byte("{}")}
	if _, err := q.Receive(f.t.Context(), e, p); err != nil {
		f.t.Fatal(err)
	}
}

// kill moves every open job to the dead letters.
func (f *fixture) kill() {
	f.t.Helper()
	q := queue.New(f.store, &queue.Config{}, slog.New(slog.DiscardHandler))
	if _, err := q.Cancel(f.t.Context(), queue.Filter{}, "exit 1: permission denied", queue.BulkOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

type result struct {
	code        int
	out, stderr string
}

// run executes a command line on the fixture.
func (f *fixture) run(args ...string) result {
	f.t.Helper()
	return f.runContext(f.t.Context(), args...)
}

func (f *fixture) runContext(ctx context.Context, args ...string) result {
	f.t.Helper()
	var out, stderr bytes.Buffer
	tty := f.width > 0
	a := &App{
		In: strings.NewReader(f.reply), Out: bufio.NewWriter(&out), Err: &stderr, Getenv: os.Getenv,
		InTTY: tty, OutTTY: tty, ErrTTY: tty, Width: f.width,
	}
	args = append(args, "--config", f.path("config.yaml"), "--database", f.path("orchestrate.db"))
	return result{code: a.Run(ctx, args), out: out.String(), stderr: stderr.String()}
}

func (r result) want(t *testing.T, code int, out, stderr string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; stderr: %s", r.code, code, r.stderr)
	}
	if out != "*" && r.out != out {
		t.Errorf("stdout:\n%s\nwant:\n%s", r.out, out)
	}
	if !strings.Contains(r.stderr, stderr) || stderr == "" && r.stderr != "" {
		t.Errorf("stderr: %q, want %q in it", r.stderr, stderr)
	}
}

// newOutput is an App without an environment whose standard output can be
// looked at.
func newOutput(format outputFormat) (*App, *bytes.Buffer) {
	var out bytes.Buffer
	return &App{Out: bufio.NewWriter(&out), Err: io.Discard, Getenv: func(string) string { return "" }, output: format}, &out
}
