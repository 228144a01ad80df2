//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

// configure rewrites the configuration, with the head that newProgram gave it.
func (p *program) configure(edit func(string) string) {
	p.t.Helper()
	b, err := os.ReadFile(p.path("config.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	next := p.path("next.yaml")
	if err := os.WriteFile(next, []byte(edit(string(b))), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(next, p.path("config.yaml")); err != nil {
		p.t.Fatal(err)
	}
}

func (d *daemon) hangup() {
	d.p.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		d.p.t.Fatal(err)
	}
}

func (p *program) stats() queue.Stats {
	p.t.Helper()
	var s queue.Stats
	if err := json.Unmarshal(p.run("status", "-o", "json"), &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// TestHangupReloads: what runs goes on, what comes follows the new
// configuration; one that is wrong changes nothing and is told.
func TestHangupReloads(t *testing.T) {
	p := newProgram(t, slowRoutes)
	writeFile(t, p.path("empty.yaml"))
	d := p.serve()
	worker := p.start("process", "--config", p.path("config.yaml"))
	p.eventually("both workers live", func() bool { return len(p.stats().Workers) == 2 })
	p.run("events", "send", "push")
	p.eventually("the command runs", func() bool { return strings.Contains(string(p.run("events", "list")), " processing ") })

	p.configure(func(s string) string {
		return strings.Replace(s, "routes:\n", "routes:\n  - {name: quick, on: [issues], run: {command: [\"true\"]}}\n", 1)
	})
	d.hangup()
	worker.hangup()
	p.eventually("both have reloaded", func() bool {
		w := p.stats().Workers
		return w[0].ReloadCount == 1 && w[1].ReloadCount == 1 && w[0].ConfigHash == w[1].ConfigHash && len(w[0].Routes) == 2
	})
	p.run("events", "send", "issues")
	p.eventually("the new route runs", func() bool {
		return len(p.list("--route", "quick", "--status", "completed")) == 1
	})

	before := p.stats().Workers[0].ConfigHash
	p.configure(func(s string) string { return strings.Replace(s, "name: quick", "nme: quick", 1) })
	d.hangup()
	p.eventually("the refusal is shown", func() bool {
		status := p.run("status") // whatever is wrong with the routes
		return strings.Contains(string(status), "1, 1 refused") &&
			strings.Contains(p.errors(), "unknown key; did you mean name?")
	})
	body, err := webhook.Example("issues")
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := p.post(delivery{id: "after", event: "issues", body: body}); status != http.StatusOK || err != nil {
		t.Fatalf("after the refusal: %d, %v; want 200", status, err)
	}
	p.eventually("the old configuration still runs", func() bool {
		return len(p.list("--database", p.path("state/q.db"), "--config", p.path("empty.yaml"), "--status", "completed")) == 2
	})
	for _, w := range workersOf(p) {
		if w.ConfigHash != before {
			t.Errorf("a worker follows %s, want %s", w.ConfigHash, before)
		}
	}

	p.configure(func(s string) string {
		return strings.Replace(strings.Replace(s, "nme: quick", "name: quick", 1), "listen: ", "listen: 127.0.0.1:1 # ", 1)
	})
	d.hangup()
	p.eventually("what takes a restart is refused", func() bool {
		return strings.Contains(p.errors(), "listen: from "+p.listen+" to 127.0.0.1:1 takes a restart")
	})
	writeFile(t, p.path("finish"))
	p.eventually("what ran goes to its end", func() bool {
		return len(p.list("--database", p.path("state/q.db"), "--config", p.path("empty.yaml"), "--status", "completed")) == 3
	})
	for _, daemon := range []*daemon{d, worker} {
		if code := daemon.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	}
}

func workersOf(p *program) []queue.Worker {
	p.t.Helper()
	var s queue.Stats
	out := p.run("status", "-o", "json", "--config", p.path("empty.yaml"), "--database", p.path("state/q.db"))
	if err := json.Unmarshal(out, &s); err != nil {
		p.t.Fatal(err)
	}
	return s.Workers
}

// TestReloadedSecrets: the file of a secret is read again, and a source that
// was added is there.
func TestReloadedSecrets(t *testing.T) {
	p := newProgram(t, "routes: []\n")
	d := p.serve()
	secret := p.path("secret")
	if err := os.WriteFile(secret, []byte("another secret of the tests\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.configure(func(s string) string {
		return strings.Replace(s, `["env:TEST_SECRET"]`, fmt.Sprintf("[%q]\nsources: [{name: acme, path: /hooks/acme, secrets: [\"env:TEST_SECRET\"]}]", "file:"+secret), 1)
	})
	d.hangup()
	p.eventually("it has reloaded", func() bool { return p.stats().Workers[0].ReloadCount == 1 })
	if status, _, err := p.post(delivery{id: "old", event: "ping", body: []byte("{}")}); status != http.StatusUnauthorized || err != nil {
		t.Errorf("the old secret: %d, %v; want 401", status, err)
	}
	p.run("events", "send", "push")
	p.run("events", "send", "push", "--source", "acme")
	var sources []string
	for _, e := range p.list() {
		sources = append(sources, e.Source)
	}
	if got := strings.Join(sources, " "); got != "acme github" {
		t.Errorf("events of %s, want acme github", got)
	}
}

// TestReloadRefusesWhatIsNotThere: an editor may empty a file for a moment, or
// take it away, and no route may be lost by that.
func TestReloadRefusesWhatIsNotThere(t *testing.T) {
	p := newProgram(t, "routes:\n  - {name: a, on: [push], run: {command: [\"true\"]}}\n")
	home := p.path(".config/orchestrate/config.yaml") // where it is looked for
	if err := os.MkdirAll(filepath.Dir(home), 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(p.path("config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		if err := os.WriteFile(home, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(string(text))
	t.Setenv("ORCHESTRATE_CONFIG", "")
	t.Setenv("XDG_CONFIG_HOME", p.path(".config"))
	p.noConfig = true
	d := p.serve()
	for i, step := range []struct {
		name, want string
		change     func()
	}{
		{"emptied", "is empty; to run without a configuration, restart", func() { put("# nothing yet\n") }},
		{"without secrets", "secrets: there are none any more", func() {
			put(strings.Replace(string(text), `secrets: ["env:TEST_SECRET"]`, "", 1))
		}},
		{"gone", "is gone; to run without a configuration, restart", func() {
			if err := os.Remove(home); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		step.change()
		d.hangup()
		p.eventually(step.name+" is refused", func() bool {
			return strings.Contains(p.errors(), step.want) && strings.Count(p.errors(), "reload refused") == i+1
		})
	}
	if status, receipt, err := p.post(delivery{id: "d", event: "push", body: []byte("{}")}); status != 200 || err != nil || len(receipt.Routes) != 1 {
		t.Errorf("got %d, routes %v, %v; want the route that was there", status, receipt.Routes, err)
	}
	if _, err := os.Stat(p.path("state/webhook-secret")); err == nil {
		t.Error("a reload has made a secret")
	}
}

// TestLeastSecrets: a process needs the secrets and directories of what it does
// itself, and no others.
func TestLeastSecrets(t *testing.T) {
	p := newProgram(t, `routes:
  - {name: mirror, on: [push], forward: {url: "https://mirror.example", secret: "env:NOT_SET"}}
  - {name: elsewhere, on: [push], run: {command: ["true"], dir: /nonexistent/dir}}
  - {name: here, on: [push], run: {command: ["true"]}}
`)
	for _, args := range [][]string{{"serve"}, {"process", "--once"}, {"process", "--once", "--route", "mirror"}} {
		if err := p.command(args...).Run(); err == nil {
			t.Errorf("%v ran without the secret", args)
		}
	}
	d := p.serve("--no-process")
	p.run("events", "send", "push")
	p.run("process", "--once", "--route", "here")
	if got := len(p.list("--route", "here")); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
	d.hangup()
	p.eventually("it has reloaded", func() bool { return p.stats().Workers[0].ReloadCount == 1 })
}

// TestStopDoesNotWaitForAReloadThatHangs.
func TestStopDoesNotWaitForAReloadThatHangs(t *testing.T) {
	p := newProgram(t, "routes:\n  - {name: a, on: [push], run: {command: [\"true\"]}}\n")
	d := p.serve()
	if err := syscall.Mkfifo(p.path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.configure(func(s string) string { return strings.Replace(s, "env:TEST_SECRET", "file:"+p.path("pipe"), 1) })
	d.hangup()
	if code := d.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestReloadUnderLoadDropsNothing: while configurations come and go, every
// delivery is answered 200, and every one is processed.
func TestReloadUnderLoadDropsNothing(t *testing.T) {
	const senders, reloads = 4, 20
	p := newProgram(t, "routes:\n  - {name: a, on: [push], run: {command: [\"true\"]}}\n#more\n")
	d := p.serve("--concurrency", "4")
	var sent, refused atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	body, err := webhook.Example("push")
	if err != nil {
		t.Fatal(err)
	}
	for i := range senders {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				status, _, err := p.post(delivery{id: fmt.Sprintf("d-%d-%d", i, n), event: "push", body: body})
				sent.Add(1)
				if status != http.StatusOK || err != nil {
					refused.Add(1)
				}
			}
		})
	}
	for i := range reloads {
		p.configure(func(s string) string {
			head, _, _ := strings.Cut(s, "#more\n")
			extra := ""
			if i%2 == 0 {
				extra = "  - {name: b, on: [push], run: {command: [\"true\"]}}\n"
			}
			return head + "#more\n" + extra
		})
		d.hangup()
		p.eventually("it has reloaded", func() bool { return p.stats().Workers[0].ReloadCount == i+1 })
	}
	close(stop)
	wg.Wait()
	p.configure(func(s string) string { return s + "  - {name: b, on: [push], run: {command: [\"true\"]}}\n" })
	d.hangup()
	p.eventually("every event is done", func() bool {
		return len(p.list("--status", "completed", "--all")) == int(sent.Load())
	})
	if refused.Load() > 0 {
		t.Errorf("%d of %d deliveries were not answered 200", refused.Load(), sent.Load())
	}
	t.Logf("%d deliveries during %d reloads", sent.Load(), reloads)
}
