//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

// The tests that use a program start the built binary, as an operator does.

const testSecret = "a secret of the tests, long enough"

// program is the binary with a directory of its own.
type program struct {
	t      testing.TB
	bin    string
	dir    string
	listen string
	admin  string

	noConfig bool     // no variable names the configuration
	env      []string // more variables
	within   []string // a command that starts it, if not empty

	mu     sync.Mutex
	stderr bytes.Buffer // of every command and every daemon
}

// newProgram takes the binary and writes its configuration, in which %DIR%
// stands for the directory. Its database is a file there.
func newProgram(t testing.TB, config string) *program {
	t.Helper()
	return newProgramOn(t, "", config)
}

// newProgramOn uses a server's database instead, if one is named.
func newProgramOn(t testing.TB, database, config string) *program {
	t.Helper()
	dir := t.TempDir()
	p := &program{t: t, bin: filepath.Join(dir, "orchestrate"), dir: dir, listen: freePort(t), admin: freePort(t)}
	if database == "" {
		database = p.path("state/q.db")
	}
	bin, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, p.bin); err != nil {
		t.Fatal(err)
	}
	config = "listen: " + p.listen + "\nadmin_listen: " + p.admin + "\ndatabase: " + database +
		"\nsecrets: [\"env:TEST_SECRET\"]\n" + strings.ReplaceAll(config, "%DIR%", dir)
	if err := os.WriteFile(p.path("config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *program) path(name string) string { return filepath.Join(p.dir, name) }

func freePort(t testing.TB) string {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func (p *program) command(args ...string) *exec.Cmd {
	whole := slices.Concat(p.within, []string{p.bin}, args)
	cmd := exec.Command(whole[0], whole[1:]...)
	cmd.Env = append(os.Environ(), "ORCHESTRATE_CONFIG="+p.path("config.yaml"), "TEST_SECRET="+testSecret, "HOME="+p.dir)
	cmd.Env = append(cmd.Env, p.env...)
	if p.noConfig {
		cmd.Env = append(cmd.Env, "ORCHESTRATE_CONFIG=")
	}
	cmd.Stderr = writerFunc(func(b []byte) (int, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.stderr.Write(b)
	})
	return cmd
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// run runs a command to its end and returns what it printed.
func (p *program) run(args ...string) []byte {
	p.t.Helper()
	out, err := p.command(args...).Output()
	if err != nil {
		p.t.Fatalf("orchestrate %s: %v\n%s", strings.Join(args, " "), err, p.errors())
	}
	return out
}

func (p *program) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	const tail = 8 << 10
	return string(p.stderr.Bytes()[max(0, p.stderr.Len()-tail):])
}

// daemon is a serve or process that runs.
type daemon struct {
	p   *program
	cmd *exec.Cmd
}

func (p *program) start(args ...string) *daemon {
	p.t.Helper()
	d := &daemon{p, p.command(args...)}
	if err := d.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
	})
	return d
}

// serve starts serve and waits until it is ready.
func (p *program) serve(args ...string) *daemon {
	p.t.Helper()
	d := p.start(append([]string{"serve"}, args...)...)
	p.eventually("serve is ready", func() bool {
		res, err := http.Get("http://" + p.admin + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return d
}

// stop ends a daemon by a signal and returns its exit code.
func (d *daemon) stop(s os.Signal) int {
	d.p.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.p.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := d.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		d.p.t.Fatal(err)
	}
	return d.cmd.ProcessState.ExitCode()
}

// eventually asks until it is told yes.
func (p *program) eventually(what string, ask func() bool) {
	p.t.Helper()
	tooLong := time.After(2 * time.Minute)
	for pause := firstPause; !ask(); pause = longer(pause) {
		select {
		case <-time.After(pause):
		case <-tooLong:
			p.t.Fatalf("still not after two minutes: %s\n%s", what, p.errors())
		}
	}
}

// delivery is a webhook as GitHub sends it.
type delivery struct {
	id, event   string
	contentType string
	body        []byte
}

// post sends a delivery, signed, and returns the status and the receipt.
func (p *program) post(d delivery) (int, queue.Receipt, error) {
	return post(http.DefaultClient, p.listen, d)
}

func post(client *http.Client, address string, d delivery) (int, queue.Receipt, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+address+"/webhooks/github", bytes.NewReader(d.body))
	if err != nil {
		return 0, queue.Receipt{}, err
	}
	if d.contentType == "" {
		d.contentType = "application/json"
	}
	req.Header.Set("Content-Type", d.contentType)
	req.Header.Set("X-GitHub-Event", d.event)
	req.Header.Set("X-GitHub-Delivery", d.id)
	req.Header.Set("X-Hub-Signature-256", webhook.Sign(d.body, []byte(testSecret)))
	res, err := client.Do(req)
	if err != nil {
		return 0, queue.Receipt{}, err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return res.StatusCode, queue.Receipt{}, err
	}
	var r queue.Receipt
	return res.StatusCode, r, json.Unmarshal(answer, &r)
}

// list reads events as an operator's script does.
func (p *program) list(args ...string) []queue.Event {
	p.t.Helper()
	out := p.run(append([]string{"events", "list", "--all", "-o", "ndjson"}, args...)...)
	var events []queue.Event
	for line := range bytes.Lines(out) {
		var e queue.Event
		if err := json.Unmarshal(line, &e); err != nil {
			p.t.Fatalf("%v in %s", err, line)
		}
		events = append(events, e)
	}
	return events
}

// settled tells whether no event is open any more.
func (p *program) settled() bool {
	p.t.Helper()
	var st queue.Stats
	if out := p.run("status", "-o", "json"); json.Unmarshal(out, &st) != nil {
		p.t.Fatalf("status printed %s", out)
	}
	for _, r := range st.Routes {
		if r.Pending+r.Processing+r.Failed > 0 {
			return false
		}
	}
	return true
}

// kill ends a daemon as a power cut would end it.
func (d *daemon) kill() { d.stop(syscall.SIGKILL) }
