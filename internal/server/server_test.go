package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte("a secret for tests")

const hookPath = "/webhooks/github"

// receiver stands for the queue where a test is about what HTTP makes of its
// answers.
type receiver func(context.Context, *queue.Event, *queue.Payload) (queue.Receipt, error)

func (f receiver) Receive(ctx context.Context, e *queue.Event, p *queue.Payload) (queue.Receipt, error) {
	return f(ctx, e, p)
}

func (receiver) Now() queue.Time { return queue.Now() }

// stored is a receiver that keeps everything it gets.
type stored struct {
	mu     sync.Mutex
	events []*queue.Event
	bodies []string
	err    error
}

func (*stored) Now() queue.Time { return queue.Now() }

func (s *stored) Receive(_ context.Context, e *queue.Event, p *queue.Payload) (queue.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return queue.Receipt{}, s.err
	}
	s.events = append(s.events, e)
	s.bodies = append(s.bodies, string(p.Body))
	return queue.Receipt{EventID: int64(len(s.events)), DeliveryID: e.DeliveryID}, nil
}

func (s *stored) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events)
}

// logBuffer is a log that a test can read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines returns the lines that hold all of the words.
func (l *logBuffer) lines(words ...string) (found []string) {
next:
	for line := range strings.Lines(l.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

func newServer(t testing.TB, r Receiver, log io.Writer, l Limits) *Server {
	t.Helper()
	s, err := New(Options{
		Receiver: r, Limits: l, Ready: func() error { return nil },
		Log: slog.New(slog.NewJSONHandler(log, nil)),
		Sources: []Source{
			{Name: "github", Path: hookPath, Secrets: [][]byte{[]byte("an older secret"), secret}},
			{Name: "open", Path: "/webhooks/open", Insecure: true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// listen serves on a port of its own until the test ends and returns its
// address.
func listen(t testing.TB, serve func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

func client(t testing.TB) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// delivery is a good request; pairs of header and value may spoil it, a value
// of "-" takes the header away.
func delivery(t testing.TB, addr, body string, edit ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+addr+hookPath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(webhook.HeaderEvent, "issues")
	r.Header.Set(webhook.HeaderDelivery, "guid-1")
	r.Header.Set(webhook.HeaderSignature, webhook.Sign([]byte(body), secret))
	for i := 0; i < len(edit); i += 2 {
		if edit[i+1] == "-" {
			r.Header.Del(edit[i])
		} else {
			r.Header.Set(edit[i], edit[i+1])
		}
	}
	return r
}

// reply is an answer whose body has been read.
type reply struct {
	status int
	header http.Header
	closes bool // the connection
}

// do sends and returns the answer with its body.
func do(t testing.TB, c *http.Client, r *http.Request) (reply, string) {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return read(t, resp)
}

func read(t testing.TB, resp *http.Response) (reply, string) {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, resp.Close}, string(body)
}

// raw sends bytes and reads one answer.
func raw(t testing.TB, addr, request string) (reply, string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return exchange(t, conn, request)
}

func exchange(t testing.TB, conn net.Conn, request string) (reply, string) {
	t.Helper()
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() { _, _ = io.WriteString(conn, request) }) // an answer may come before all of it is taken
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return read(t, resp)
}

func wantError(t testing.TB, resp reply, body string, status int) {
	t.Helper()
	want := fmt.Sprintf("{\"error\":%q}\n", strings.ToLower(http.StatusText(status)))
	if resp.status != status || body != want {
		t.Errorf("got %d %q, want %d %q", resp.status, body, status, want)
	}
	for key, want := range map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"} {
		if got := resp.header.Get(key); got != want {
			t.Errorf("header %s: got %q, want %q", key, got, want)
		}
	}
	if got, want := resp.header.Get("Retry-After") != "", status == http.StatusServiceUnavailable; got != want {
		t.Errorf("Retry-After sent: %v, want %v", got, want)
	}
}

func TestIntakeStores(t *testing.T) {
	form := "payload=%7B%22action%22%3A%22opened%22%7D"
	for _, c := range []struct {
		name, path, body string
		edit             []string
	}{
		{"JSON", hookPath, `{"action":"opened"}`, nil},
		{"a charset in any case", hookPath, `{"action":"opened"}`, []string{"Content-Type", "Application/JSON; Charset=UTF-8"}},
		{"form", hookPath, form, []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"an older secret", hookPath, `{"action":"opened"}`, []string{webhook.HeaderSignature, webhook.Sign([]byte(`{"action":"opened"}`), []byte("an older secret"))}},
		{"a query", hookPath + "?a=b", `{"action":"opened"}`, nil},
		{"no signature where none is asked", "/webhooks/open", `{"action":"opened"}`, []string{webhook.HeaderSignature, "-"}},
		{"a wrong one where none is asked", "/webhooks/open", `{"action":"opened"}`, []string{webhook.HeaderSignature, "sha256=00"}},
		{"200 KB", hookPath, `{"action":"opened","x":"` + strings.Repeat("x", 200_000) + `"}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kept stored
			addr := listen(t, newServer(t, &kept, io.Discard, Limits{}).ServeIntake)
			r := delivery(t, addr, c.body, c.edit...)
			r.URL.Path, r.URL.RawQuery, _ = strings.Cut(c.path, "?")
			resp, body := do(t, client(t), r)
			if want := `{"event_id":1,"delivery_id":"guid-1","duplicate":false,"routes":[]}` + "\n"; resp.status != 200 || body != want {
				t.Fatalf("got %d %q, want 200 %q", resp.status, body, want)
			}
			if resp.header.Get("Content-Type") != "application/json" || resp.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("got headers %v", resp.header)
			}
			e := kept.events[0]
			if kept.bodies[0] != c.body || e.Action != "opened" || e.EventType != "issues" || e.ReceivedAt == 0 {
				t.Errorf("stored %+v with body %.80q", e, kept.bodies[0])
			}
			if want := strings.TrimPrefix(r.URL.Path, "/webhooks/"); e.Source != want {
				t.Errorf("got source %q, want %q", e.Source, want)
			}
		})
	}
}

func TestIntakeAnswersReceipt(t *testing.T) {
	addr := listen(t, newServer(t, receiver(func(context.Context, *queue.Event, *queue.Payload) (queue.Receipt, error) {
		return queue.Receipt{EventID: 7, DeliveryID: "guid-1#2", Duplicate: true, Routes: []string{"deploy", "mirror"}, Limited: true}, nil
	}), io.Discard, Limits{}).ServeIntake)
	resp, body := do(t, client(t), delivery(t, addr, "{}"))
	if want := `{"event_id":7,"delivery_id":"guid-1#2","duplicate":true,"routes":["deploy","mirror"]}` + "\n"; resp.status != 200 || body != want {
		t.Errorf("got %d %q, want 200 %q", resp.status, body, want)
	}
}

func TestIntakeRefuses(t *testing.T) {
	digits := strings.Repeat("0", 64)
	for _, c := range []struct {
		name, method, path, body string
		edit                     []string
		status                   int
	}{
		{"no signature", "", "", "{}", []string{webhook.HeaderSignature, "-"}, 401},
		{"wrong signature", "", "", "{}", []string{webhook.HeaderSignature, "sha256=" + digits}, 401},
		{"malformed signature", "", "", "{}", []string{webhook.HeaderSignature, "sha256=0"}, 401},
		{"SHA-1 alone", "", "", "{}", []string{webhook.HeaderSignature, "-", "X-Hub-Signature", "sha1=" + digits[:40]}, 401},
		{"signature before everything else", "", "", "x", []string{webhook.HeaderSignature, "-", "Content-Type", "text/plain", webhook.HeaderEvent, "-"}, 401},
		{"no event", "", "", "{}", []string{webhook.HeaderEvent, "-"}, 400},
		{"no delivery", "", "", "{}", []string{webhook.HeaderDelivery, "-"}, 400},
		{"long delivery", "", "", "{}", []string{webhook.HeaderDelivery, strings.Repeat("d", 256)}, 400},
		{"tab in the event", "", "", "{}", []string{webhook.HeaderEvent, "a\tb"}, 400},
		{"no JSON", "", "", "nope", nil, 400},
		{"empty body", "", "", "", nil, 400},
		{"array", "", "", "[]", nil, 400},
		{"text", "", "", "{}", []string{"Content-Type", "text/plain"}, 415},
		{"no content type", "", "", "{}", []string{"Content-Type", "-"}, 415},
		{"gzip", "", "", "{}", []string{"Content-Encoding", "gzip"}, 415},
		{"GET", "GET", "", "", nil, 405},
		{"HEAD", "HEAD", "", "", nil, 405},
		{"PUT", "PUT", "", "{}", nil, 405},
		{"a method never seen", "BREW", "", "{}", nil, 405},
		{"root", "", "/", "{}", nil, 404},
		{"slash at the end", "", hookPath + "/", "{}", nil, 404},
		{"double slash", "", "/" + hookPath, "{}", nil, 404},
		{"dots", "", "/x/.." + hookPath, "{}", nil, 404},
		{"health on the intake", "GET", "/livez", "", nil, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kept stored
			var log logBuffer
			addr := listen(t, newServer(t, &kept, &log, Limits{}).ServeIntake)
			r := delivery(t, addr, c.body, c.edit...)
			if c.method != "" {
				r.Method = c.method
			}
			if c.path != "" {
				r.URL.Path = c.path
			}
			resp, body := do(t, client(t), r)
			if c.method == "HEAD" {
				body = `{"error":"method not allowed"}` + "\n" // a HEAD has no body
			}
			wantError(t, resp, body, c.status)
			if got, want := resp.header.Get("Allow"), map[int]string{405: "POST"}[c.status]; got != want {
				t.Errorf("got Allow %q, want %q", got, want)
			}
			if kept.count() != 0 {
				t.Error("a refused request reached the receiver")
			}
			if got := log.lines(`"msg":"refused"`, fmt.Sprintf(`"status":%d`, c.status), `"reason":`, `"remote":"127.0.0.1:`); len(got) != 1 {
				t.Errorf("want one line that says why; the log is:\n%s", log.String())
			}
		})
	}
}

// TestTwoSignatures: which of them counts would be a guess.
func TestTwoSignatures(t *testing.T) {
	var kept stored
	addr := listen(t, newServer(t, &kept, io.Discard, Limits{}).ServeIntake)
	r := delivery(t, addr, "{}")
	r.Header.Add(webhook.HeaderSignature, "sha256="+strings.Repeat("0", 64))
	resp, body := do(t, client(t), r)
	wantError(t, resp, body, 401)
	if kept.count() != 0 {
		t.Error("it reached the receiver")
	}
}

func TestForgedRequestBurnsNoDeliveryID(t *testing.T) {
	var kept stored
	addr := listen(t, newServer(t, &kept, io.Discard, Limits{}).ServeIntake)
	c := client(t)
	resp, body := do(t, c, delivery(t, addr, `{"forged":1}`, webhook.HeaderSignature, webhook.Sign([]byte(`{"forged":1}`), []byte("guess"))))
	wantError(t, resp, body, 401)
	resp, body = do(t, c, delivery(t, addr, `{}`))
	if resp.status != 200 || !strings.Contains(body, `"duplicate":false`) || kept.count() != 1 || kept.bodies[0] != "{}" {
		t.Errorf("after a forged one: got %d %q, stored %q", resp.status, body, kept.bodies)
	}
}

func TestIntakeWhenTheStoreCannot(t *testing.T) {
	for _, cause := range []error{
		queue.ErrBusy, queue.ErrUnavailable, queue.ErrBroken, context.DeadlineExceeded, errors.New("anything else"),
		fmt.Errorf("store delivery guid-1: %w", queue.ErrUnavailable),
	} {
		t.Run(cause.Error(), func(t *testing.T) {
			var log logBuffer
			addr := listen(t, newServer(t, &stored{err: cause}, &log, Limits{}).ServeIntake)
			resp, body := do(t, client(t), delivery(t, addr, "{}"))
			wantError(t, resp, body, 503)
			if got := log.lines(`"level":"ERROR"`, `"delivery_id":"guid-1"`, cause.Error()); len(got) != 1 {
				t.Errorf("want one error line with the cause; the log is:\n%s", log.String())
			}
		})
	}
}

func TestIntakeConflict(t *testing.T) {
	addr := listen(t, newServer(t, receiver(func(context.Context, *queue.Event, *queue.Payload) (queue.Receipt, error) {
		return queue.Receipt{EventID: 1, DeliveryID: "guid-1", Conflict: true}, nil
	}), io.Discard, Limits{}).ServeIntake)
	resp, body := do(t, client(t), delivery(t, addr, "{}"))
	wantError(t, resp, body, 409)
}

func TestIntakePanic(t *testing.T) {
	var log logBuffer
	panics := true
	s := newServer(t, receiver(func(context.Context, *queue.Event, *queue.Payload) (queue.Receipt, error) {
		if panics {
			panic("a bug\x1b[2J")
		}
		return queue.Receipt{EventID: 1}, nil
	}), &log, Limits{Stores: 1})
	addr := listen(t, s.ServeIntake)
	c := client(t)
	resp, body := do(t, c, delivery(t, addr, "{}"))
	wantError(t, resp, body, 500)
	if got := log.lines(`"msg":"request panicked"`, `"panic":"a bug[2J"`, "intake.go"); len(got) != 1 {
		t.Errorf("want one line with the stack; the log is:\n%s", log.String())
	}
	panics = false
	if resp, body := do(t, c, delivery(t, addr, "{}")); resp.status != 200 {
		t.Errorf("the request after a panic: got %d %q, want 200", resp.status, body)
	}
	if got := s.memory.free.Load(); got != s.limits.Memory {
		t.Errorf("%d bytes are still held", s.limits.Memory-got)
	}
}

func TestIntakeTooLarge(t *testing.T) {
	const header = "POST " + hookPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
		"X-GitHub-Event: push\r\nX-GitHub-Delivery: guid-1\r\n"
	small, largest := Limits{Size: 1000}, DefaultLimits().Size
	chunk := "3e9\r\n" + strings.Repeat("x", 1001) + "\r\n"
	for _, c := range []struct {
		name, request string
		limits        Limits
		status        int
	}{
		{"announced, nothing sent", header + fmt.Sprintf("Content-Length: %d\r\n\r\n", largest+1), Limits{}, 413},
		{"announced, continue asked for", header + fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n\r\n", largest+1), Limits{}, 413},
		{"announced beyond every number", header + "Content-Length: 9223372036854775807\r\n\r\n", Limits{}, 413},
		{"announced, one byte over", header + "Content-Length: 1001\r\n\r\n" + strings.Repeat("x", 1001), small, 413},
		{"announced, just fits", header + "Content-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000), small, 401},
		{"chunked, one byte over", header + "Transfer-Encoding: chunked\r\n\r\n" + chunk, small, 413},
		{"chunked, just fits", header + "Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + strings.Repeat("x", 1000) + "\r\n0\r\n\r\n", small, 401},
		{"chunked, malformed", header + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", small, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kept stored
			s := newServer(t, &kept, io.Discard, c.limits)
			resp, body := raw(t, listen(t, s.ServeIntake), c.request)
			wantError(t, resp, body, c.status)
			if kept.count() != 0 {
				t.Error("it reached the receiver")
			}
		})
	}
}

func TestIntakeHasNoOptions(t *testing.T) {
	addr := listen(t, newServer(t, &stored{}, io.Discard, Limits{}).ServeIntake)
	resp, body := raw(t, addr, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
	wantError(t, resp, body, 404)
}

func TestIntakeTakesTheLargest(t *testing.T) {
	var kept stored
	s := newServer(t, &kept, io.Discard, Limits{Answer: 5 * time.Minute, Body: 5 * time.Minute}) // for a slow machine
	const form = "payload=%7B%7D&filler="                                                        // JSON of that size takes the race detector ten seconds
	body := form + strings.Repeat("x", int(s.limits.Size)-len(form))
	r := delivery(t, listen(t, s.ServeIntake), body, "Content-Type", queue.FormContentType)
	resp, answer := do(t, client(t), r)
	if resp.status != 200 || kept.count() != 1 {
		t.Fatalf("%d bytes: got %d %q, stored %d, want 200 and one", len(body), resp.status, answer, kept.count())
	}
	if digest := sha256.Sum256([]byte(body)); kept.bodies[0] != body || kept.events[0].BodySHA256 != hex.EncodeToString(digest[:]) {
		t.Error("the bytes changed")
	}
	if got := s.memory.free.Load(); got != s.limits.Memory {
		t.Errorf("%d bytes are still held", s.limits.Memory-got)
	}
}

func TestIntakeDepth(t *testing.T) {
	addr := listen(t, newServer(t, &stored{}, io.Discard, Limits{}).ServeIntake)
	resp, body := do(t, client(t), delivery(t, addr, strings.Repeat("[", 1<<20)))
	wantError(t, resp, body, 400)
}

func TestIntakeContinue(t *testing.T) {
	addr := listen(t, newServer(t, &stored{}, io.Discard, Limits{}).ServeIntake)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	head := "POST " + hookPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n" +
		"X-GitHub-Event: push\r\nX-GitHub-Delivery: guid-1\r\nX-Hub-Signature-256: " + webhook.Sign([]byte("{}"), secret) + "\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v, want 100 Continue", line, err)
	}
	if _, err := answers.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "{}"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if resp, body := read(t, answer); resp.status != 200 || resp.closes {
		t.Errorf("got %d %q, close %v, want 200 on a connection that stays", resp.status, body, resp.closes)
	}
}

func TestIntakeLogsNoSecrets(t *testing.T) {
	var log logBuffer
	addr := listen(t, newServer(t, &stored{err: queue.ErrBroken}, &log, Limits{}).ServeIntake)
	c := client(t)
	signature := webhook.Sign([]byte(`{"private":"words"}`), secret)
	for _, edit := range [][]string{
		nil,
		{"Content-Type", "text/plain"},
		{webhook.HeaderSignature, strings.Repeat("f", 64)},
		{webhook.HeaderDelivery, "\u202eevil\u009b2J", "Authorization", "Bearer token"},
	} {
		do(t, c, delivery(t, addr, `{"private":"words"}`, edit...))
	}
	for _, secret := range []string{string(secret), strings.TrimPrefix(signature, "sha256="), strings.Repeat("f", 64), "private", "words", "token", "\u202e", "\u009b"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %q:\n%s", secret, log.String())
		}
	}
	if len(log.lines(`"delivery_id":"evil2J"`)) != 1 {
		t.Errorf("want a line with the cleaned delivery id; the log is:\n%s", log.String())
	}
}

func TestAdmin(t *testing.T) {
	var log logBuffer
	s := newServer(t, &stored{}, &log, Limits{})
	var cause error
	s.ready.ask = func() error { return cause }
	addr := listen(t, s.ServeAdmin)
	c := client(t)
	for _, step := range []struct {
		name, method, path string
		cause              error
		status             int
	}{
		{"alive", "GET", "/livez", nil, 200},
		{"ready", "GET", "/readyz", nil, 200},
		{"HEAD", "HEAD", "/readyz", nil, 200},
		{"POST", "POST", "/livez", nil, 405},
		{"other path", "GET", "/", nil, 404},
		{"the intake's path", "POST", hookPath, nil, 404},
		{"not ready", "GET", "/readyz", errors.New("database away"), 503},
		{"still not ready", "GET", "/readyz", errors.New("database away"), 503},
		{"alive though not ready", "GET", "/livez", errors.New("database away"), 200},
		{"for another reason", "GET", "/readyz", errors.New("draining"), 503},
		{"without a reason", "GET", "/readyz", errors.New(""), 503},
		{"ready again", "GET", "/readyz", nil, 200},
	} {
		cause = step.cause
		r, err := http.NewRequestWithContext(t.Context(), step.method, "http://"+addr+step.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, body := do(t, c, r)
		if step.status != 200 {
			wantError(t, resp, body, step.status)
		} else if want := map[string]string{"GET": "{\"status\":\"ok\"}\n"}[step.method]; resp.status != 200 || body != want {
			t.Errorf("%s: got %d %q, want 200 %q", step.name, resp.status, body, want)
		}
		if got, want := resp.header.Get("Allow"), map[int]string{405: "GET, HEAD"}[step.status]; got != want {
			t.Errorf("%s: got Allow %q, want %q", step.name, got, want)
		}
	}
	if a, b := len(log.lines(`"not ready"`)), len(log.lines(`"ready again"`)); a != 3 || b != 1 {
		t.Errorf("got %d and %d lines for 3 reasons and one recovery:\n%s", a, b, log.String())
	}
}

func TestNewRefuses(t *testing.T) {
	good := func() Options {
		return Options{
			Receiver: &stored{}, Ready: func() error { return nil }, Log: slog.New(slog.DiscardHandler),
			Sources: []Source{{Name: "github", Path: hookPath, Secrets: [][]byte{secret}}},
		}
	}
	if _, err := New(good()); err != nil {
		t.Fatalf("good options: %v", err)
	}
	for name, spoil := range map[string]func(*Options){
		"no receiver":          func(o *Options) { o.Receiver = nil },
		"no readiness":         func(o *Options) { o.Ready = nil },
		"no log":               func(o *Options) { o.Log = nil },
		"no source":            func(o *Options) { o.Sources = nil },
		"no secret":            func(o *Options) { o.Sources[0].Secrets = nil },
		"an empty secret":      func(o *Options) { o.Sources[0].Secrets = [][]byte{secret, {}} },
		"a relative path":      func(o *Options) { o.Sources[0].Path = "webhooks" },
		"two on one path":      func(o *Options) { o.Sources = append(o.Sources, o.Sources[0]) },
		"a negative limit":     func(o *Options) { o.Limits.Memory = -1 },
		"a negative time":      func(o *Options) { o.Limits.Idle = -1 },
		"no time to answer in": func(o *Options) { o.Limits.Answer = o.Limits.orDefaults().Body - 1 },
	} {
		t.Run(name, func(t *testing.T) {
			o := good()
			spoil(&o)
			if s, err := New(o); s != nil || !errors.Is(err, queue.ErrInvalid) {
				t.Errorf("got %v, %v, want ErrInvalid", s, err)
			}
		})
	}
}

func TestServeTellsWhyItEnded(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := newServer(t, &stored{}, io.Discard, Limits{}).ServeIntake(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serving a closed listener: got %v, want net.ErrClosed", err)
	}
}

// Intake over HTTP with a receiver that does nothing.
func BenchmarkIntake(b *testing.B) {
	s := newServer(b, receiver(func(_ context.Context, e *queue.Event, _ *queue.Payload) (queue.Receipt, error) {
		return queue.Receipt{EventID: 1, DeliveryID: e.DeliveryID}, nil
	}), io.Discard, Limits{})
	addr := listen(b, s.ServeIntake)
	c := client(b)
	body := tenKilobytes(b)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if resp, answer := do(b, c, delivery(b, addr, body, webhook.HeaderEvent, "pull_request")); resp.status != 200 {
				b.Errorf("got %d %q", resp.status, answer)
			}
		}
	})
}

func tenKilobytes(t testing.TB) string {
	t.Helper()
	body, err := webhook.Example("pull_request")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
