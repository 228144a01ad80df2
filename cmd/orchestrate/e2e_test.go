//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
	"orchestrate/internal/webhook"
)

// minPayloads is how many real payloads a folder that the environment names
// must hold.
const minPayloads = 251

// deliveries are all the payloads of the folder in ORCHESTRATE_TEST_PAYLOADS,
// or our own examples where it is not set; every seventh as a form, as GitHub
// sends hooks that were made without a content type.
func deliveries(t *testing.T) []delivery {
	t.Helper()
	var all []delivery
	add := func(event string, body []byte) {
		d := delivery{id: fmt.Sprintf("e2e-%04d", len(all)), event: event, body: body}
		if len(all)%7 == 6 {
			d.contentType, d.body = queue.FormContentType, []byte(url.Values{"payload": {string(body)}}.Encode())
		}
		all = append(all, d)
	}
	root := os.Getenv("ORCHESTRATE_TEST_PAYLOADS")
	if root == "" {
		for _, event := range webhook.Examples() {
			body, err := webhook.Example(event)
			if err != nil {
				t.Fatal(err)
			}
			add(event, body)
		}
		return all
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" || filepath.Dir(path) == filepath.Clean(root) {
			return err
		}
		body, err := os.ReadFile(path)
		add(filepath.Base(filepath.Dir(path)), body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < minPayloads {
		t.Fatalf("%s holds %d payloads, want at least %d", root, len(all), minPayloads)
	}
	return all
}

const e2eConfig = `
processor: {concurrency: 8}
routes:
  - name: record            # keeps what it was given
    on: ["*"]
    run:
      command: [sh, -c, 'cat > "$OUT/$ORCHESTRATE_DELIVERY_ID"']
      env: {OUT: "%DIR%/out"}
  - name: fragile           # fails until it is mended
    on: [pull_request.opened, pull_request.labeled, issues.opened]
    run: {command: [sh, -c, 'test -e "$OUT/mended" || { echo "cannot connect" >&2; exit 3; }'], env: {OUT: "%DIR%/out"}}
  - name: elsewhere         # wants another repository
    on: [push, pull_request]
    filter: {repository: ["nobody/*"]}
    run: {command: ["false"]}
`

// TestMainJob is what the program is for, on real webhooks: received, stored
// byte for byte, routed, run, retried, dead-lettered, seen, replayed, cleaned.
func TestMainJob(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		mainJob(t, "")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		mainJob(t, pgtest.Shared(t).Database(t))
	})
}

func mainJob(t *testing.T, database string) {
	t.Helper()
	p := newProgramOn(t, database, e2eConfig)
	if err := os.Mkdir(p.path("out"), 0o700); err != nil {
		t.Fatal(err)
	}
	serve := p.serve()
	sent := deliveries(t)
	receipts := postAll(t, p, sent)
	p.eventually("everything has ended", p.settled)

	fragile := checkStored(t, p, sent, receipts)
	if len(fragile) == 0 {
		t.Fatal("no payload was for the fragile route")
	}
	checkDead(t, p, fragile)
	replay(t, p, fragile)

	events := p.list()
	if len(events) != len(sent) {
		t.Errorf("%d events are listed, want %d", len(events), len(sent))
	}
	for _, e := range events {
		if e.Status != queue.StatusCompleted {
			t.Errorf("event %d: %s, want completed", e.ID, e.Status)
		}
	}
	cleanUp(t, p, sent)
	if code := serve.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("serve ended with %d, want 0\n%s", code, p.errors())
	}
}

// postAll posts from eight senders and returns the receipts by delivery id.
func postAll(t *testing.T, p *program, sent []delivery) map[string]queue.Receipt {
	t.Helper()
	receipts := map[string]queue.Receipt{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan delivery)
	for range 8 {
		wg.Go(func() {
			for d := range work {
				status, r, err := p.post(d)
				if err != nil || status != http.StatusOK || r.Duplicate || r.DeliveryID != d.id {
					t.Errorf("%s (%s): got %d, %+v, %v; want 200 and a new event", d.id, d.event, status, r, err)
				}
				mu.Lock()
				receipts[d.id] = r
				mu.Unlock()
			}
		})
	}
	for _, d := range sent {
		work <- d
	}
	close(work)
	wg.Wait()
	return receipts
}

// checkStored compares bytes, facts and routes, and returns the ids of the
// events that the fragile route wanted.
func checkStored(t *testing.T, p *program, sent []delivery, receipts map[string]queue.Receipt) (fragile []int64) {
	t.Helper()
	byID := map[string]queue.Event{}
	for _, e := range p.list() {
		byID[e.DeliveryID] = e
	}
	for i, d := range sent {
		r, e := receipts[d.id], byID[d.id]
		if i%7 >= 5 { // the forms, and as many others: each starts the program
			if raw := p.run("events", "show", fmt.Sprint(r.EventID), "--payload", "--raw"); !bytes.Equal(raw, d.body) {
				t.Errorf("%s: %d bytes are stored that differ from the %d sent", d.id, len(raw), len(d.body))
			}
		}
		given, err := os.ReadFile(p.path("out/" + d.id))
		if want := jsonOf(d); err != nil || !bytes.Equal(given, want) {
			t.Errorf("%s: the command was given %d bytes, want %d; %v", d.id, len(given), len(want), err)
		}
		var facts struct {
			Action     string
			Repository struct {
				FullName string `json:"full_name"`
			}
		}
		_ = json.Unmarshal(jsonOf(d), &facts) // some payloads have neither
		if e.EventType != d.event || string(e.Action) != facts.Action || string(e.Repository) != facts.Repository.FullName {
			t.Errorf("%s: stored as %s.%s of %s, sent was %s.%s of %s", d.id, e.EventType, e.Action, e.Repository, d.event, facts.Action, facts.Repository.FullName)
		}
		want := []string{"record"}
		if slices.Contains([]string{"pull_request.opened", "pull_request.labeled", "issues.opened"}, d.event+"."+facts.Action) {
			want = []string{"fragile", "record"}
			fragile = append(fragile, r.EventID)
		}
		if slices.Sort(r.Routes); !slices.Equal(r.Routes, want) || !slices.Equal(e.Routes, want) {
			t.Errorf("%s: the answer told routes %v, the list %v, want %v", d.id, r.Routes, e.Routes, want)
		}
	}
	return fragile
}

func jsonOf(d delivery) []byte {
	p := queue.Payload{Headers: map[string]string{"Content-Type": d.contentType}, Body: d.body}
	b, err := p.JSON()
	if err != nil {
		panic(err)
	}
	return b
}

func (p *program) show(id int64) queue.Detail {
	p.t.Helper()
	var d queue.Detail
	if out := p.run("events", "show", fmt.Sprint(id), "-o", "json"); json.Unmarshal(out, &d) != nil {
		p.t.Fatalf("events show %d printed %s", id, out)
	}
	return d
}

// checkDead holds the failing route to its schedule: four attempts, with waits
// of 1, 2 and 4 s between them.
func checkDead(t *testing.T, p *program, ids []int64) {
	t.Helper()
	dead := p.list("--status", "dead_letter")
	if len(dead) != len(ids) {
		t.Errorf("%d dead letters are listed, want %d", len(dead), len(ids))
	}
	for _, id := range ids {
		s := p.show(id)
		var ended queue.Time
		wait, n := time.Second, 0
		for _, a := range s.Attempts {
			if a.Route != "fragile" {
				continue
			}
			if n++; n > 1 {
				if got := a.StartedAt.Sub(ended); got < wait {
					t.Errorf("event %d: attempt %d began after %s, want at least %s", id, n, got, wait)
				}
				wait *= 2
			}
			ended = a.FinishedAt
			if a.ExitCode == nil || *a.ExitCode != 3 || !strings.Contains(string(a.Output), "cannot connect") {
				t.Errorf("event %d: attempt %d: exit %v, output %q", id, n, a.ExitCode, a.Output)
			}
		}
		if n != 4 || s.Status != queue.StatusDeadLetter || s.RetryCount != 3 || s.ErrorMessage != "fragile: exit 3: cannot connect" {
			t.Errorf("event %d: %s after %d attempts, %d retries: %s", id, s.Status, n, s.RetryCount, s.ErrorMessage)
		}
	}
}

// replay mends what was broken, replays one dead letter by hand and then all.
func replay(t *testing.T, p *program, ids []int64) {
	t.Helper()
	if err := os.WriteFile(p.path("out/mended"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.run("events", "retry", fmt.Sprint(ids[0]))
	p.eventually("the event that was retried is completed", func() bool { return p.show(ids[0]).Status == queue.StatusCompleted })
	var done queue.Bulk
	out := p.run("events", "requeue-dead", "--all", "--yes", "-o", "json")
	if err := json.Unmarshal(out, &done); err != nil || done.Changed != len(ids)-1 {
		t.Errorf("requeue-dead printed %s (%v), want %d changed", out, err, len(ids)-1)
	}
	p.eventually("every dead letter is completed", p.settled)
	for _, id := range ids {
		if s := p.show(id); s.Status != queue.StatusCompleted {
			t.Errorf("event %d is %s after the replay", id, s.Status)
		}
	}
}

// cleanUp takes everything away but the memory of the deliveries.
func cleanUp(t *testing.T, p *program, sent []delivery) {
	t.Helper()
	var res queue.CleanupResult
	out := p.run("cleanup", "--older-than", "1ms", "-o", "json")
	if err := json.Unmarshal(out, &res); err != nil || res.Changed != len(sent) {
		t.Errorf("cleanup printed %s (%v), want %d changed", out, err, len(sent))
	}
	if left := p.list(); len(left) != 0 {
		t.Errorf("%d events are left after the cleanup", len(left))
	}
	status, r, err := p.post(sent[0])
	if err != nil || status != http.StatusOK || !r.Duplicate {
		t.Errorf("a redelivery after the cleanup: got %d, %+v, %v; want a duplicate", status, r, err)
	}
}
