//go:build unix

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"orchestrate/internal/webhook"
)

// hmacSHA256 is RFC 2104 written out, so that what this program signs is checked
// by nothing that it was signed with.
func hmacSHA256(key, message []byte) string {
	if len(key) > 64 {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	pad := func(with byte) []byte {
		block := bytes.Repeat([]byte{with}, 64)
		for i, k := range key {
			block[i] ^= k
		}
		return block
	}
	inner := sha256.Sum256(append(pad(0x36), message...))
	outer := sha256.Sum256(append(pad(0x5c), inner[:]...))
	return hex.EncodeToString(outer[:])
}

// TestForward follows an event through the program to a receiver that is away
// at first: the body unchanged, signed with the route's own secret, the same
// idempotency key on each attempt.
func TestForward(t *testing.T) {
	const secret = "the secret of the mirror, and no other"
	var mu sync.Mutex
	var got []*http.Request
	var bodies []string
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got, bodies = append(got, r), append(bodies, string(body))
		if len(got) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "thank you")
	}))
	defer receiver.Close()
	p := newProgram(t, fmt.Sprintf(`
retry: {unavailable: {base: 10ms}}
routes:
  - name: mirror
    on: [push]
    forward:
      url: %s/hook
      secret: file:%%DIR%%/mirror-secret
      headers: {Authorization: "env:TOKEN"}
      allow_private: [127.0.0.0/8]
  - name: refused
    on: [push]
    if: payload.repository.full_name == "acme/web"
    forward: {url: "http://localhost.localdomain.invalid/"}
    retry: {max: 0, unavailable: {for: 0s}}
`, receiver.URL))
	if err := os.WriteFile(p.path("mirror-secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOKEN", "Bearer 1234567890abcdef")
	p.serve()
	body, err := webhook.Example("push")
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := p.post(delivery{id: "d-1", event: "push", body: body}); status != http.StatusOK || err != nil {
		t.Fatalf("got %d, %v; want 200", status, err)
	}
	p.eventually("it was forwarded", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == 2
	})
	for i, r := range got {
		want := map[string]string{
			"X-Hub-Signature-256": "sha256=" + hmacSHA256([]byte(secret), body), "Authorization": "Bearer 1234567890abcdef",
			"Idempotency-Key": "github/d-1/mirror", "Orchestrate-Attempt": fmt.Sprint(i + 1),
			"X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1", "Content-Type": "application/json",
		}
		for name, value := range want {
			if got := r.Header.Get(name); got != value {
				t.Errorf("attempt %d, %s: got %q, want %q", i+1, name, got, value)
			}
		}
		if bodies[i] != string(body) {
			t.Errorf("attempt %d: the body has changed", i+1)
		}
	}
	p.eventually("both routes have ended", func() bool { return len(p.list("--status", "dead_letter")) == 1 })
	page := string(p.run("events", "show", "1", "--attempts"))
	for _, want := range []string{"thank you", " unavailable ", " 503 ", " 200 "} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing in\n%s", want, page)
		}
	}
	for _, hidden := range []string{secret, "1234567890abcdef"} {
		if strings.Contains(page+p.errors(), hidden) {
			t.Errorf("a secret is shown: %s", hidden)
		}
	}
}

// TestConditionThatCannotBeTold: such an event is kept as a dead letter of that
// route; when the condition has been mended, a replay evaluates it first.
func TestConditionThatCannotBeTold(t *testing.T) {
	p := newProgram(t, `routes:
  - {name: doubtful, on: [push], if: "payload.nothing.here == 1", run: {command: [touch, "%DIR%/ran"]}}
  - {name: plain, on: [push], run: {command: ["true"]}}
`)
	d := p.serve()
	p.run("events", "send", "push")
	p.eventually("the other route is done", func() bool {
		return len(p.list("--status", "dead_letter", "--route", "plain")) == 1
	})
	show := string(p.run("events", "show", "1"))
	if want := "match: if: no such key: nothing"; !strings.Contains(show, want) {
		t.Errorf("%q is missing in\n%s", want, show)
	}
	reloads := 0
	condition := func(is string) {
		p.configure(func(s string) string {
			head, rest, _ := strings.Cut(s, `if: "`)
			_, rest, _ = strings.Cut(rest, `"`)
			return head + `if: "` + is + `"` + rest
		})
		d.hangup()
		reloads++
		p.eventually("it has reloaded", func() bool { return p.stats().Workers[0].ReloadCount == reloads })
	}
	replay := func() {
		p.run("events", "requeue-dead", "--all", "--yes")
		p.eventually("no event is open", func() bool { return len(p.list("--status", "completed")) == len(p.list()) })
	}

	condition("payload.ref == 'refs/heads/nowhere'")
	replay()
	if _, err := os.Stat(p.path("ran")); err == nil {
		t.Error("the command ran, although the condition does not hold")
	}
	if show := string(p.run("events", "show", "1")); !strings.Contains(show, " skipped ") {
		t.Errorf("no attempt was skipped:\n%s", show)
	}

	condition("payload.nothing == 1")
	p.run("events", "send", "push")
	p.eventually("the other route is done", func() bool {
		return len(p.list("--status", "dead_letter", "--route", "plain")) == 1
	})
	condition("payload.ref.startsWith('refs/')")
	replay()
	if _, err := os.Stat(p.path("ran")); err != nil {
		t.Errorf("the command did not run: %v", err)
	}
}

// TestVanishedRouteIsWarnedAbout with the number of jobs that wait for it.
func TestVanishedRouteIsWarnedAbout(t *testing.T) {
	p := newProgram(t, "routes:\n  - {name: gone, on: [push], run: {command: [\"true\"]}}\n")
	d := p.serve("--no-process")
	p.run("events", "send", "push", "--count", "3")
	p.configure(func(s string) string { return strings.Replace(s, "name: gone", "name: other", 1) })
	d.hangup()
	p.eventually("the jobs are counted", func() bool {
		log := p.errors()
		return strings.Contains(log, `"route":"gone","jobs":3`) && strings.Contains(log, "orchestrate events cancel --route gone")
	})
	if w := p.stats().Workers; len(w) != 1 || w[0].Slots != 0 || w[0].ReloadCount != 1 {
		t.Errorf("got %+v, want one receiver that has reloaded once", w)
	}
}
