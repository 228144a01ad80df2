package handler

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"orchestrate/internal/queue"
)

func newForward(t testing.TB, f Forward) *forward {
	t.Helper()
	h, err := NewForward(f, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatalf("NewForward(%s): %v", f.URL, err)
	}
	fwd, ok := h.(*forward)
	if !ok {
		t.Fatalf("NewForward made a %T", h)
	}
	t.Cleanup(fwd.transport.CloseIdleConnections)
	return fwd
}

// toLocal is a forward that may go to this machine.
func toLocal(t testing.TB, url string) *forward {
	t.Helper()
	return newForward(t, Forward{URL: url, AllowPrivate: []string{"127.0.0.0/8"}})
}

func receiver(t testing.TB, serve http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(serve)
	t.Cleanup(srv.Close)
	return srv
}

// tlsReceiver speaks HTTP/2, and h takes its certificate for valid.
func tlsReceiver(t testing.TB, serve http.HandlerFunc) (*httptest.Server, *forward) {
	t.Helper()
	srv := httptest.NewUnstartedServer(serve)
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	h := toLocal(t, srv.URL)
	h.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	h.transport.TLSClientConfig.RootCAs.AddCert(srv.Certificate())
	return srv, h
}

// rawReceiver hands each connection to serve and closes it afterwards.
func rawReceiver(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// readRequest reads one request as it is on the wire.
func readRequest(c net.Conn) string {
	var text strings.Builder
	r := bufio.NewReader(c)
	length := 0
	for {
		line, err := r.ReadString('\n')
		text.WriteString(line)
		if n, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(n))
		}
		if err != nil || line == "\r\n" {
			break
		}
	}
	_, _ = io.CopyN(&text, r, int64(length))
	return text.String()
}

func TestForwardOutcome(t *testing.T) {
	away := map[int]bool{429: true, 502: true, 503: true, 504: true}
	for code := 200; code < 600; code++ {
		srv := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			if code != 204 && code != 304 {
				_, _ = io.WriteString(w, "\n  it \x1b[31mis\n so")
			}
		})
		host := srv.Listener.Addr().String()
		kind, text := "retry", fmt.Sprintf("%d from %s: it [31mis so", code, host)
		switch {
		case code < 300:
			kind, text = "done", ""
		case code == 304:
			text = "304 from " + host
		case code == 410:
			kind = "permanent"
		case away[code]:
			kind = "unavailable"
		}
		res, err := toLocal(t, srv.URL).Handle(t.Context(), task(`{}`))
		if kindOf(err) != kind || message(err) != text || res.HTTPStatus != queue.Int(code) {
			t.Errorf("outcome of %d = %s %q with status %d, want %s %q", code, kindOf(err), message(err), res.HTTPStatus, kind, text)
		}
		srv.Close()
	}
}

func TestForwardKeepsTheAnswer(t *testing.T) {
	const mark = "\n[the rest was not read]\n"
	long := strings.Repeat("x", queue.MaxOutput)
	tests := []struct{ name, body, want string }{
		{"none", "", ""},
		{"short", "thanks", "thanks"},
		{"just all", long, long},
		{"one byte more", long + "y", long[:queue.MaxOutput-len(mark)] + mark},
		{"compressed, kept as it is", "\x1f\x8b\x08\x00", "\x1f\x8b\x08\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Accept-Encoding"); got != "" {
					t.Errorf("Accept-Encoding = %q, want none", got)
				}
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = io.WriteString(w, tt.body)
			})
			res, err := toLocal(t, srv.URL).Handle(t.Context(), task(`{}`))
			if err != nil || string(res.Output) != tt.want {
				t.Errorf("output = %d bytes %.40q…, %v; want %d bytes", len(res.Output), res.Output, err, len(tt.want))
			}
		})
	}
}

func TestForwardSends(t *testing.T) {
	body := "payload=%7B%22a%22%3A1%7D&x=\x00\xff"
	requests := make(chan string, 1)
	addr := rawReceiver(t, func(c net.Conn) {
		requests <- readRequest(c)
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	h := newForward(t, Forward{
		URL: "http://" + addr + "/hook/a%2Fb?key=topsecret&flag", AllowPrivate: []string{"127.0.0.0/8"},
		Secret: []byte("It's a Secret to Everybody"), SecretFrom: "env:MIRROR_SECRET",
		Headers: map[string]ForwardHeader{
			"authorization": {Value: "Bearer t0ken-of-mine", From: "env:MIRROR_AUTHORIZATION"},
			"X-Team":        {Value: "agents"},
		},
	})
	task := task(body)
	task.Payload.Headers = map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "User-Agent": "GitHub-Hookshot/044aadd",
		"X-Github-Event": "pull_request", "X-Github-Delivery": "d-1", "X-Github-Hook-Id": "42",
		"X-Github-Hook-Installation-Target-Id": "7", "X-Github-Hook-Installation-Target-Type": "repository",
		"Cookie": "never", "Authorization": "never", "X-Hub-Signature-256": "never", "X-Forwarded-For": "never",
	}
	if _, err := h.Handle(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	mac := rfc2104([]byte("It's a Secret to Everybody"), []byte(body))
	want := strings.Join([]string{
		"POST /hook/a%2Fb?key=topsecret&flag HTTP/1.1",
		"Host: " + addr,
		"User-Agent: orchestrate",
		"Content-Length: 30",
		"Authorization: Bearer t0ken-of-mine",
		"Content-Type: application/x-www-form-urlencoded",
		"Idempotency-Key: github/d-1/deploy",
		"Orchestrate-Attempt: 3",
		"X-GitHub-Delivery: d-1",
		"X-GitHub-Event: pull_request",
		"X-GitHub-Hook-ID: 42",
		"X-GitHub-Hook-Installation-Target-ID: 7",
		"X-GitHub-Hook-Installation-Target-Type: repository",
		"X-Hub-Signature-256: sha256=" + hex.EncodeToString(mac),
		"X-Team: agents", "", "",
	}, "\r\n") + body
	if diff := cmp.Diff(strings.Split(want, "\r\n"), strings.Split(<-requests, "\r\n")); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	preview, err := h.Preview(task)
	if err != nil {
		t.Fatal(err)
	}
	wantPreview := Preview{Forward: &ForwardPreview{
		Method: "POST", URL: "http://" + addr + "/hook/a%2Fb?key=***&***", BodyBytes: 30,
		Headers: map[string]string{
			"Authorization": "env:MIRROR_AUTHORIZATION", "Content-Type": "application/x-www-form-urlencoded",
			"Idempotency-Key": "github/d-1/deploy", "Orchestrate-Attempt": "3", "User-Agent": "orchestrate",
			"X-GitHub-Delivery": "d-1", "X-GitHub-Event": "pull_request", "X-GitHub-Hook-ID": "42",
			"X-GitHub-Hook-Installation-Target-ID": "7", "X-GitHub-Hook-Installation-Target-Type": "repository",
			"X-Hub-Signature-256": "sha256=… with env:MIRROR_SECRET", "X-Team": "agents",
		},
	}}
	if diff := cmp.Diff(wantPreview, preview); diff != "" {
		t.Errorf("preview (-want +got):\n%s", diff)
	}
}

// rfc2104 is HMAC with SHA-256 by the letter of RFC 2104.
func rfc2104(key, text []byte) []byte {
	if len(key) > 64 {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	ipad, opad := bytes.Repeat([]byte{0x36}, 64), bytes.Repeat([]byte{0x5c}, 64)
	for i, b := range key {
		ipad[i] ^= b
		opad[i] ^= b
	}
	inner := sha256.Sum256(slices.Concat(ipad, text))
	outer := sha256.Sum256(slices.Concat(opad, inner[:]))
	return outer[:]
}

// TestForwardSignature has the far end check with other implementations: RFC 2104
// by hand, and OpenSSL where it is installed.
func TestForwardSignature(t *testing.T) {
	openssl, errOpenSSL := exec.LookPath("openssl")
	tests := []struct{ name, secret, body, known string }{
		{
			"example of docs.github.com", "It's a Secret to Everybody", "Hello, World!",
			"757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
		},
		{
			"RFC 4231, 2", "Jefe", "what do ya want for nothing?",
			"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
		},
		{"empty body", "0123456789abcdef", "", ""},
		{"bytes that are no text", "0123456789abcdef", "\x00\xff\r\n\xc3", ""},
		{"secret longer than a block", strings.Repeat("k", 100), `{"a":1}`, ""},
		{"large body", "0123456789abcdef", strings.Repeat(`{"a":1}`, 1<<18), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			var body []byte
			srv := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
				got = r.Header.Get("X-Hub-Signature-256")
				body, _ = io.ReadAll(r.Body)
			})
			h := newForward(t, Forward{URL: srv.URL, Secret: []byte(tt.secret), AllowPrivate: []string{"127.0.0.0/8"}})
			if _, err := h.Handle(t.Context(), task(tt.body)); err != nil {
				t.Fatal(err)
			}
			if string(body) != tt.body {
				t.Fatalf("body of %d bytes arrived as %d others", len(tt.body), len(body))
			}
			digits, _ := strings.CutPrefix(got, "sha256=")
			if want := hex.EncodeToString(rfc2104([]byte(tt.secret), body)); digits != want || tt.known != "" && digits != tt.known {
				t.Errorf("signature = %q, want sha256=%s (known: %q)", got, want, tt.known)
			}
			if errOpenSSL != nil {
				return
			}
			cmd := exec.Command(openssl, "dgst", "-sha256", "-hmac", tt.secret)
			cmd.Stdin = bytes.NewReader(body)
			if out, err := cmd.Output(); err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), digits) {
				t.Errorf("openssl says %q, %v; the signature is %q", out, err, got)
			}
		})
	}
}

func TestForwardUnsigned(t *testing.T) {
	srv := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		if got, ok := r.Header["X-Hub-Signature-256"]; ok {
			t.Errorf("signature = %q, want none without a secret", got)
		}
	})
	if _, err := toLocal(t, srv.URL).Handle(t.Context(), task(`{}`)); err != nil {
		t.Error(err)
	}
}

// TestForwardWithoutItsSecrets: what was made to be looked at sends nothing,
// least of all unsigned.
func TestForwardWithoutItsSecrets(t *testing.T) {
	srv := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was made") })
	for want, f := range map[string]Forward{
		"the secret was not read from env:S":       {SecretFrom: "env:S"},
		"header X-Token was not read from file:/t": {Headers: map[string]ForwardHeader{"X-Token": {From: "file:/t"}}},
	} {
		f.URL, f.AllowPrivate = srv.URL, []string{"127.0.0.0/8"}
		h := newForward(t, f)
		if _, err := h.Handle(t.Context(), task(`{}`)); message(err) != want {
			t.Errorf("Handle = %v, want %q", err, want)
		}
		if _, err := h.Preview(task(`{}`)); err != nil {
			t.Errorf("Preview: %v", err)
		}
	}
}

// TestForwardInjection has events whose headers try to be more than one.
func TestForwardInjection(t *testing.T) {
	tests := []struct{ name, value, want string }{
		{"line break", "push\r\nX-Evil: 1", "push  X-Evil: 1"},
		{"line feed", "push\nX-Evil: 1", "push X-Evil: 1"},
		{"end of headers", "push\r\n\r\nPOST /evil HTTP/1.1", "push    POST /evil HTTP/1.1"},
		{"NUL and escape", "pu\x00sh\x1b[31m\x7f", "push[31m"},
		{"other line breaks", "push\u2028X-Evil: 1\u0085X-Evil: 2", "push X-Evil: 1X-Evil: 2"},
		{"not UTF-8", "pu\xffsh", "push"},
		{"odd type", "größer/../☃ ,;=", "größer/../☃ ,;="},
		{"long", strings.Repeat("e", 255), strings.Repeat("e", 255)},
		{"nothing", "", ""},
		{"nothing that can be sent", "\r\n\x00", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			requests := make(chan string, 2)
			addr := rawReceiver(t, func(c net.Conn) {
				requests <- readRequest(c)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			})
			task := task("the body")
			task.Payload.Headers = map[string]string{"X-Github-Event": tt.value, "Content-Type": tt.value}
			task.Key = "github/" + tt.value + "/r"
			if _, err := toLocal(t, "http://"+addr).Handle(t.Context(), task); err != nil {
				t.Fatal(err)
			}
			head, body, _ := strings.Cut(<-requests, "\r\n\r\n")
			want := []string{"Idempotency-Key: github/" + tt.want + "/r", "Orchestrate-Attempt: 3"}
			if v := strings.TrimSpace(tt.want); v != "" {
				want = slices.Concat([]string{"Content-Type: " + v}, want, []string{"X-GitHub-Event: " + v})
			} else if tt.value != "" {
				want = slices.Concat([]string{"Content-Type: "}, want, []string{"X-GitHub-Event: "})
			}
			if tt.value == "\r\n\x00" {
				want[1] = "Idempotency-Key: github/  /r"
			}
			if diff := cmp.Diff(want, strings.Split(head, "\r\n")[4:]); diff != "" || body != "the body" {
				t.Errorf("body %q, headers (-want +got):\n%s", body, diff)
			}
		})
	}
}

func TestForwardHTTP2(t *testing.T) {
	const n = 20
	var conns sync.Map
	_, h := tlsReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Proto, r.Header.Get("X-GitHub-Event"), r.Header.Get("Idempotency-Key"), body)
	})
	send := func() {
		task := task(`{"a":1}`)
		task.Payload.Headers["X-Github-Event"] = "push"
		res, err := h.Handle(t.Context(), task)
		if want := `HTTP/2.0 push github/d-1/deploy {"a":1}`; err != nil || string(res.Output) != want {
			t.Errorf("answer = %q, %v; want %q", res.Output, err, want)
		}
	}
	send()
	var wg sync.WaitGroup
	for range n {
		wg.Go(send)
	}
	wg.Wait()
	got := 0
	conns.Range(func(any, any) bool { got++; return true })
	if got != 1 {
		t.Errorf("%d requests took %d connections, want 1", n+1, got)
	}
}

func TestForwardReusesConnections(t *testing.T) {
	tests := []struct {
		name string
		code int
		size int
		want int32
	}{
		{"no body", 204, 0, 1},
		{"small body", 200, 100, 1},
		{"failure", 500, 1000, 1},
		{"all that is kept", 200, queue.MaxOutput, 1},
		{"more than is read", 200, 4 << 20, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var conns atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.code)
				_, _ = w.Write(make([]byte, tt.size))
			}))
			srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					conns.Add(1)
				}
			}
			srv.Start()
			t.Cleanup(srv.Close)
			h := toLocal(t, srv.URL)
			for range 5 {
				if res, _ := h.Handle(t.Context(), task(`{}`)); res.HTTPStatus != queue.Int(tt.code) {
					t.Fatalf("status = %d, want %d", res.HTTPStatus, tt.code)
				}
			}
			if got := conns.Load(); got != tt.want {
				t.Errorf("5 requests took %d connections, want %d", got, tt.want)
			}
		})
	}
}

// TestForwardOverAClosedConnection: a receiver that closes a kept connection
// without a word costs no failure.
func TestForwardOverAClosedConnection(t *testing.T) {
	var n atomic.Int32
	addr := rawReceiver(t, func(c net.Conn) {
		n.Add(1)
		readRequest(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	h := toLocal(t, "http://"+addr)
	for i := range 10 {
		if _, err := h.Handle(t.Context(), task(`{}`)); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	}
	if n.Load() < 10 {
		t.Errorf("%d connections, want one a request", n.Load())
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 10, 21, 7, 28, 0, 0, time.UTC)
	tests := []struct {
		name, value string
		want        time.Duration
	}{
		{"none", "", 0},
		{"seconds", "120", 2 * time.Minute},
		{"with blanks", " 7 ", 7 * time.Second},
		{"zero", "0", 0},
		{"negative", "-5", 0},
		{"signed", "+5", 0},
		{"fraction", "1.5", 0},
		{"word", "soon", 0},
		{"unit", "5s", 0},
		{"hexadecimal", "0x10", 0},
		{"a day", "86400", 24 * time.Hour},
		{"absurd", "99999999999999999999", 0},
		{"over the bound", "2147483648", 0},
		{"date", "Wed, 21 Oct 2026 07:29:30 GMT", 90 * time.Second},
		{"old form of a date", "Wednesday, 21-Oct-26 07:29:30 GMT", 90 * time.Second},
		{"date in the past", "Wed, 21 Oct 2015 07:28:00 GMT", 0},
		{"two values", "1, 2", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := retryAfter(tt.value, now); got != tt.want {
				t.Errorf("retryAfter(%q) = %s, want %s", tt.value, got, tt.want)
			}
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "1", "-1", "9999999999", "Wed, 21 Oct 2026 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := retryAfter(s, time.Unix(0, 0)); got < 0 {
			t.Errorf("retryAfter(%q) = %s, want 0 or more", s, got)
		}
	})
}

func TestForwardRetryAfter(t *testing.T) {
	for _, code := range []int{429, 502, 503, 504, 500} {
		srv := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(code)
		})
		_, err := toLocal(t, srv.URL).Handle(t.Context(), task(`{}`))
		var away *queue.UnavailableError
		if errors.As(err, &away) != (code != 500) || away != nil && away.RetryAfter != 90*time.Second {
			t.Errorf("outcome of %d = %#v, want unavailable with 90s unless 500", code, err)
		}
	}
}

func TestForwardRedirect(t *testing.T) {
	tests := []struct {
		name, location, want string
		code                 int
	}{
		{"absolute", "https://other.example/hook?token=abcdefgh#x", "https://other.example/hook", 302},
		{"relative", "/new?key=topsecret", "http://HOST/new", 308},
		{"without a scheme", "//169.254.169.254/latest", "http://169.254.169.254/latest", 307},
		{"with a password", "https://user:pass@other.example/", "https://other.example/", 301},
		{"other scheme", "file:///etc/passwd", "file:///etc/passwd", 303},
		{"no URL", "http://[oops\u202e", "http://[oops", 302},
		{"long", "/" + strings.Repeat("a", 500), "http://HOST/" + strings.Repeat("a", 500), 302},
		{"what we sent", "/login/topsecret", "http://HOST/login/***", 302},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int32
			srv := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				w.Header()["Location"] = []string{tt.location}
				w.WriteHeader(tt.code)
			})
			host := srv.Listener.Addr().String()
			_, err := toLocal(t, srv.URL+"/hook?key=topsecret").Handle(t.Context(), task(`{}`))
			leads := queue.Cut(strings.ReplaceAll(tt.want, "HOST", host), maxLine/2)
			want := fmt.Sprintf("%d from %s: redirects are not followed; it leads to %s", tt.code, host, leads)
			if kindOf(err) != "retry" || message(err) != want {
				t.Errorf("outcome = %s %q, want retry %q", kindOf(err), message(err), want)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

// TestForwardKeepsNoSecrets has a receiver that shows all that it was sent.
func TestForwardKeepsNoSecrets(t *testing.T) {
	srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(500)
		_, _ = fmt.Fprintf(w, "%s %s mirror-secret %s %s", r.URL, r.Header["Authorization"], r.URL.Query().Get("token"), r.Header["X-Team"])
	})
	h := newForward(t, Forward{
		URL: srv.URL + "/hook?token=abc%2Fdefgh&n=short", Secret: []byte("mirror-secret"), AllowPrivate: []string{"127.0.0.0/8"},
		Headers: map[string]ForwardHeader{"Authorization": {"Bearer t0ken-of-mine", "env:T"}, "X-Team": {Value: "agents-of-ours"}},
	})
	res, err := h.Handle(t.Context(), task(`{}`))
	want := "/hook?token=***&n=short [Bearer ***] *** *** [agents-of-ours]"
	if string(res.Output) != want || !strings.HasSuffix(message(err), ": "+want) {
		t.Errorf("output = %q, error = %q; want %q in both", res.Output, err, want)
	}
}

// TestForwardErrorsKeepNoQuery: no failure prints what a URL's query holds.
func TestForwardErrorsKeepNoQuery(t *testing.T) {
	addr := rawReceiver(t, func(net.Conn) {})
	for _, base := range []string{"http://" + addr, "https://" + addr, "http://nowhere.invalid", "http://127.0.0.1:1"} {
		h := toLocal(t, base+"/hook?token=topsecret")
		h.dialer.Resolver = (&nameServer{with: func(int) (byte, []string) { return 3, nil }}).resolver()
		if _, err := h.Handle(t.Context(), task(`{}`)); err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("error of %s = %v, want one without the token", base, err)
		}
	}
	for _, bad := range []string{"http://h:x/?topsecret", "http://h/%zz?topsecret", "ftp://h/?topsecret", "http://u:p@h/?topsecret", "http://h\x01/?topsecret"} {
		if _, err := NewForward(Forward{URL: bad}, nil); err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("NewForward(%q) = %v, want an error without the token", bad, err)
		}
	}
}

// nothingLeft fails the test when it leaves a goroutine.
func nothingLeft(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

const okHead = "HTTP/1.1 200 OK\r\n"

// TestForwardHostile has receivers that mean no good.
func TestForwardHostile(t *testing.T) {
	endless := func(c net.Conn, head, piece string) {
		readRequest(c)
		_, err := io.WriteString(c, head)
		for err == nil {
			_, err = io.WriteString(c, piece)
		}
	}
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, text)
		}
	}
	tests := []struct {
		name  string
		serve func(net.Conn)
		kind  string
		err   string
	}{
		{"hangs up before reading", func(net.Conn) {}, "retry", "no answer from "},
		{"hangs up after reading", say(""), "retry", "EOF"},
		{"resets", func(c net.Conn) {
			readRequest(c)
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
		}, "retry", "connection reset"},
		{"hangs up in the headers", say("HTTP/1.1 200 OK\r\nX: y"), "retry", "EOF"},
		{"speaks something else", say("SSH-2.0-OpenSSH_9.9\r\n"), "retry", "malformed HTTP"},
		{"half a status", say("HTTP/1.1 2\r\n\r\n"), "retry", "malformed HTTP status code"},
		{"two lengths", say(okHead + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"), "retry", "Content-Length"},
		{"endless headers", func(c net.Conn) { endless(c, okHead, "X-Filler: "+strings.Repeat("x", 1000)+"\r\n") }, "retry", "exceeded"},
		{"an endless header", func(c net.Conn) { endless(c, okHead+"X: ", strings.Repeat("x", 1000)) }, "retry", "exceeded"},
		{"an endless status", func(c net.Conn) { endless(c, "HTTP/1.1 200 ", strings.Repeat("x", 1000)) }, "retry", "exceeded"},
		{"endless early hints", func(c net.Conn) { endless(c, "", "HTTP/1.1 103 Early Hints\r\n\r\n") }, "retry", "exceeded"},
		{"endless continues", func(c net.Conn) { endless(c, "", "HTTP/1.1 100 Continue\r\n\r\n") }, "retry", "exceeded"},
		{"another protocol", func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_, _ = io.Copy(io.Discard, c) // until the other side closes
		}, "retry", "101 from "},
		{"endless body", func(c net.Conn) { endless(c, okHead+"\r\n", strings.Repeat("x", 1000)) }, "done", ""},
		{"endless chunks", func(c net.Conn) { endless(c, okHead+"Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n") }, "done", ""},
		{"endless body of a failure", func(c net.Conn) {
			endless(c, "HTTP/1.1 500 Oh\r\n\r\n", strings.Repeat("no ", 1000))
		}, "retry", "500 from "},
		{"body cut short", say(okHead + "Content-Length: 100\r\n\r\nshort"), "done", ""},
		{"body of a failure cut short", say("HTTP/1.1 503 Oh\r\nContent-Length: 100\r\n\r\nshort"), "unavailable", ": short [the rest was not read]"},
		{"chunks that are none", say(okHead + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "done", ""},
		{"endless length of a chunk", func(c net.Conn) { endless(c, okHead+"Transfer-Encoding: chunked\r\n\r\n", "0000000000") }, "done", ""},
		{"endless trailers", func(c net.Conn) { endless(c, okHead+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "X-Filler: x\r\n") }, "done", ""},
		{"answers before it has read all", func(c net.Conn) {
			_, _ = c.Read(make([]byte, 100))
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.Copy(io.Discard, c)
		}, "retry", "413 from "},
		{"a second answer", say(okHead + "Content-Length: 0\r\n\r\n" + okHead + "Content-Length: 0\r\n\r\n"), "done", ""},
		{"control characters", say("HTTP/1.1 500 \x1b[31m\r\nContent-Length: 9\r\n\r\n\x1b]0;x\x07\xff\xfe\u202e"), "retry", "500 from ADDR: ]0;x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nothingLeft(t)
			addr := rawReceiver(t, tt.serve)
			h := newForward(t, Forward{URL: "http://" + addr, AllowPrivate: []string{"127.0.0.0/8"}, Timeout: 20 * time.Second})
			res, err := h.Handle(t.Context(), task(strings.Repeat("x", 1<<20)))
			if kindOf(err) != tt.kind || !strings.Contains(message(err), strings.ReplaceAll(tt.err, "ADDR", addr)) {
				t.Errorf("outcome = %s %q, want %s with %q", kindOf(err), message(err), tt.kind, tt.err)
			}
			if len(res.Output) > queue.MaxOutput || strings.Contains(message(err), "timed out") {
				t.Errorf("%d bytes of output, error %v; want at most %d, in time", len(res.Output), err, queue.MaxOutput)
			}
		})
	}
}

// zeros is a body without end that counts what is read of it.
type zeros int

func (z *zeros) Read(p []byte) (int, error) {
	*z += zeros(len(p))
	return len(p), nil
}

func TestForwardReadsLittleMoreThanItKeeps(t *testing.T) {
	var body zeros
	out, err := toLocal(t, "http://127.0.0.1").read(&http.Response{StatusCode: 200, Body: io.NopCloser(&body)})
	if err != nil || len(out) != queue.MaxOutput || body > queue.MaxOutput+1 {
		t.Errorf("kept %d of %d bytes read, %v; want %d of one more at most", len(out), body, err, queue.MaxOutput)
	}
}

// TestForwardGigabyte: a receiver can't make us take what is not kept.
func TestForwardGigabyte(t *testing.T) {
	flood := func(written *atomic.Int64) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			chunk := make([]byte, 64<<10)
			for range 1 << 30 / len(chunk) {
				n, err := w.Write(chunk)
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		}
	}
	check := func(t *testing.T, h *forward, stop func(), written *atomic.Int64) {
		t.Helper()
		res, err := h.Handle(t.Context(), task(`{}`))
		if err != nil || len(res.Output) != queue.MaxOutput {
			t.Errorf("outcome = %v with %d bytes, want done with %d", err, len(res.Output), queue.MaxOutput)
		}
		stop()
		if n := written.Load(); n > 64<<20 { // what the kernel takes on its own account
			t.Errorf("the receiver wrote %d bytes, want it stopped early", n)
		}
	}
	t.Run("HTTP/1", func(t *testing.T) {
		nothingLeft(t)
		var written atomic.Int64
		srv := receiver(t, flood(&written))
		check(t, toLocal(t, srv.URL), srv.Close, &written)
	})
	t.Run("HTTP/2", func(t *testing.T) {
		nothingLeft(t)
		var written atomic.Int64
		srv, h := tlsReceiver(t, flood(&written))
		check(t, h, func() { h.transport.CloseIdleConnections(); srv.Close() }, &written)
	})
}

func TestForwardHostileHTTP2(t *testing.T) {
	tests := []struct {
		name  string
		serve http.HandlerFunc
		kind  string
		err   string
	}{
		{"huge headers", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 200 {
				w.Header().Set("X-Filler-"+strconv.Itoa(i), strings.Repeat("x", 1000))
			}
		}, "retry", "no answer"},
		{"early hints without end", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", strings.Repeat("x", 1000))
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
			}
		}, "retry", "no answer"},
		{"panics", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "retry", "no answer"},
		{"breaks off", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "done", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nothingLeft(t)
			_, h := tlsReceiver(t, tt.serve)
			_, err := h.Handle(t.Context(), task(`{}`))
			if kindOf(err) != tt.kind || !strings.Contains(message(err), tt.err) || strings.Contains(message(err), "timed out") {
				t.Errorf("outcome = %s %q, want %s with %q", kindOf(err), message(err), tt.kind, tt.err)
			}
		})
	}
}

func TestForwardTLS(t *testing.T) {
	tests := []struct {
		name  string
		setup func(*testing.T, *httptest.Server, *forward)
		err   string
	}{
		{"unknown authority", func(_ *testing.T, _ *httptest.Server, h *forward) {
			h.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		}, "certificate signed by unknown authority"},
		{"of another host", func(_ *testing.T, _ *httptest.Server, h *forward) {
			h.transport.TLSClientConfig.ServerName = "mirror.test"
		}, "not mirror.test"},
		{"old version", func(_ *testing.T, srv *httptest.Server, _ *forward) {
			srv.TLS.MinVersion, srv.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, "protocol version"},
		{"none", func(t *testing.T, _ *httptest.Server, h *forward) { h.url.Host = rawReceiver(t, func(net.Conn) {}) }, "no answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nothingLeft(t)
			srv, h := tlsReceiver(t, func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
			tt.setup(t, srv, h)
			_, err := h.Handle(t.Context(), task(`{}`))
			if kindOf(err) != "retry" || !strings.Contains(message(err), tt.err) {
				t.Errorf("outcome = %s %q, want retry with %q", kindOf(err), message(err), tt.err)
			}
		})
	}
}

// overPipe is a forward to a receiver at the other end of a pipe, for tests that
// let time pass.
func overPipe(t *testing.T, serve func(net.Conn)) *forward {
	t.Helper()
	h := newForward(t, Forward{URL: "http://mirror.test/hook"})
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	h.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		wg.Go(func() {
			defer func() { _ = server.Close() }()
			serve(server)
		})
		return client, nil
	}
	return h
}

// drip says something at once and every 700 ms until nobody listens.
func drip(head, piece string) func(net.Conn) {
	return func(c net.Conn) {
		readRequest(c)
		_, err := io.WriteString(c, head)
		for tick := time.NewTicker(700 * time.Millisecond); err == nil; <-tick.C {
			_, err = io.WriteString(c, piece)
		}
	}
}

func TestForwardTimeout(t *testing.T) {
	tests := []struct {
		name   string
		serve  func(net.Conn)
		kind   string
		err    string
		status queue.Int
		output string
	}{
		{"never answers", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "retry", "no answer from mirror.test: timed out after 30s", 0, ""},
		{"never reads", func(net.Conn) { <-time.After(time.Hour) }, "retry", "no answer from mirror.test: timed out after 30s", 0, ""},
		{"slow headers", drip(okHead, "X: y\r\n"), "retry", "no answer from mirror.test: timed out after 30s", 0, ""},
		{"slow hints", drip("", "HTTP/1.1 103 Early Hints\r\n\r\n"), "retry", "no answer from mirror.test: timed out after 30s", 0, ""},
		{"slow body", drip(okHead+"\r\n", "x"), "done", "", 200, strings.Repeat("x", 43) + "\n[the rest was not read]\n"},
		{"slow body of a failure", drip("HTTP/1.1 500 Oh\r\n\r\n", "x"), "retry", "500 from mirror.test: " + strings.Repeat("x", 43) + " [the rest was not read]", 500, strings.Repeat("x", 43) + "\n[the rest was not read]\n"},
		{"slow body of what is away", drip("HTTP/1.1 503 Oh\r\n\r\n", "x"), "unavailable", "503 from mirror.test: " + strings.Repeat("x", 43) + " [the rest was not read]", 503, strings.Repeat("x", 43) + "\n[the rest was not read]\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := overPipe(t, tt.serve)
				start := time.Now()
				res, err := h.Handle(t.Context(), task(`{}`))
				if kindOf(err) != tt.kind || message(err) != tt.err || res.HTTPStatus != tt.status || string(res.Output) != tt.output {
					t.Errorf("outcome = %s %q, %d %q; want %s %q, %d %q", kindOf(err), message(err), res.HTTPStatus, res.Output,
						tt.kind, tt.err, tt.status, tt.output)
				}
				if took := time.Since(start); took != 30*time.Second {
					t.Errorf("took %s, want 30s", took)
				}
			})
		})
	}
}

// TestForwardConnectTimeout: nothing was sent, so the receiver is away.
func TestForwardConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newForward(t, Forward{URL: "http://mirror.test", Timeout: 5 * time.Second})
		h.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		_, err := h.Handle(t.Context(), task(`{}`))
		if kindOf(err) != "unavailable" || message(err) != "no answer from mirror.test: timed out after 5s" {
			t.Errorf("outcome = %s %v, want unavailable, timed out", kindOf(err), err)
		}
	})
}

// TestForwardEnds: when the worker ends an attempt it ends at once, with the
// cause, unless the receiver has the event by then.
func TestForwardEnds(t *testing.T) {
	tests := []struct {
		name  string
		serve func(net.Conn)
		done  bool
	}{
		{"before an answer", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, false},
		{"within the headers", drip(okHead, "X: y\r\n"), false},
		{"within the answer of who has it", drip(okHead+"\r\n", "x"), true},
		{"within another answer", drip("HTTP/1.1 410 Gone\r\n\r\n", "x"), false},
	}
	for _, tt := range tests {
		for _, cause := range []error{queue.ErrStopped, queue.ErrLeaseLost} {
			t.Run(tt.name+", "+cause.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := overPipe(t, tt.serve)
					ctx, end := context.WithCancelCause(t.Context())
					time.AfterFunc(4500*time.Millisecond, func() { end(cause) })
					start := time.Now()
					_, err := h.Handle(ctx, task(`{}`))
					if tt.done && err != nil || !tt.done && !errors.Is(err, cause) {
						t.Errorf("outcome = %v, want %v (done: %t)", err, cause, tt.done)
					}
					if took := time.Since(start); took != 4500*time.Millisecond {
						t.Errorf("took %s, want 4.5s", took)
					}
				})
			})
		}
	}
}

func TestForwardEndedBefore(t *testing.T) {
	srv := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was made") })
	ctx, end := context.WithCancelCause(t.Context())
	end(queue.ErrStopped)
	if _, err := toLocal(t, srv.URL).Handle(ctx, task(`{}`)); !errors.Is(err, queue.ErrStopped) {
		t.Errorf("outcome = %v, want %v", err, queue.ErrStopped)
	}
}

// TestForwardIgnoresProxies: a proxy would connect to whatever a name means to it.
func TestForwardIgnoresProxies(t *testing.T) {
	proxy := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("a request came to the proxy") })
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	h := newForward(t, Forward{URL: "http://mirror.test", AllowPrivate: []string{"127.0.0.0/8"}})
	h.dialer.Resolver = (&nameServer{with: func(int) (byte, []string) { return 0, []string{"10.0.0.1"} }}).resolver()
	if _, err := h.Handle(t.Context(), task(`{}`)); kindOf(err) != "permanent" {
		t.Errorf("outcome = %s %v, want the refusal of the address", kindOf(err), err)
	}
	if h.transport.Proxy != nil {
		t.Error("the transport has a proxy, want none")
	}
}

func TestNewForwardErrors(t *testing.T) {
	url := func(s string) Forward { return Forward{URL: s} }
	header := func(name, value string) Forward {
		return Forward{URL: "https://mirror.example", Headers: map[string]ForwardHeader{name: {Value: value}}}
	}
	tests := []struct {
		name        string
		f           Forward
		field, want string
	}{
		{"no URL", url(""), "url", `no scheme: want http or https, as in https://mirror.example/hook`},
		{"no scheme", url("mirror.example/hook"), "url", "no scheme: want http or https"},
		{"host for a scheme", url("mirror.example:8080/hook"), "url", `scheme "mirror.example"`},
		{"other scheme", url("ftp://mirror.example"), "url", `scheme "ftp": want http or https`},
		{"file", url("file:///etc/passwd"), "url", `scheme "file"`},
		{"no host", url("https:///hook"), "url", "no host"},
		{"opaque", url("https:mirror.example"), "url", "no host"},
		{"port alone", url("https://:8080/"), "url", "no host"},
		{"user", url("https://user@mirror.example"), "url", "a user or password: want them as a header"},
		{"fragment", url("https://mirror.example/#a"), "url", "a fragment"},
		{"empty fragment", url("https://mirror.example/#"), "url", "a fragment"},
		{"port 0", url("https://mirror.example:0/"), "url", "port 0: want 1 to 65535"},
		{"port over", url("https://mirror.example:65536/"), "url", "port 65536: want 1 to 65535"},
		{"port no number", url("https://mirror.example:x/"), "url", `invalid port ":x" after host`},
		{"line break", url("https://mirror.example/\r\nX: y"), "url", "invalid control character"},
		{"blank in the query", url("https://mirror.example/?a b"), "url", "a query with blanks"},
		{"bad escape", url("https://mirror.example/%zz"), "url", `invalid URL escape "%zz"`},
		{"decimal", url("http://2130706433/"), "url", "host 2130706433: programs read such a number"},
		{"octal", url("http://0177.0.0.1/"), "url", "host 0177.0.0.1: programs read such a number"},
		{"hexadecimal", url("http://0x7f.1/"), "url", "host 0x7f.1: programs read such a number"},
		{"hexadecimal, whole", url("http://0x7f000001/"), "url", "host 0x7f000001: programs read such a number"},
		{"hexadecimal, end", url("http://127.0.0.0X1/"), "url", "host 127.0.0.0X1: programs read such a number"},
		{"short", url("http://127.1/"), "url", "host 127.1: programs read such a number"},
		{"zero", url("http://0/"), "url", "host 0: programs read such a number"},
		{"dot behind", url("http://127.0.0.1./"), "url", "host 127.0.0.1.: programs read such a number"},
		{"over 255", url("http://256.1.1.1/"), "url", "host 256.1.1.1: programs read such a number"},
		{"wide digits", url("http://１２７.0.0.１/"), "url", "want letters, digits, hyphens and dots"},
		{"wide dot", url("http://127。0。0。1/"), "url", "want letters, digits, hyphens and dots"},
		{"other script", url("https://bücher.example/"), "url", "in its xn-- form"},
		{"empty label", url("https://mirror..example/"), "url", "an empty part between dots"},
		{"dot", url("https://./"), "url", "an empty part between dots"},
		{"loopback", url("http://127.0.0.1/"), "url", `127.0.0.1 is loopback, this machine; to send there all the same: allow_private: ["127.0.0.1/32"]`},
		{"loopback IPv6", url("http://[::1]:8080/"), "url", `::1 is loopback, this machine; to send there all the same: allow_private: ["::1/128"]`},
		{"mapped", url("http://[::ffff:127.0.0.1]/"), "url", "127.0.0.1 is loopback"},
		{"mapped metadata", url("http://[::ffff:a9fe:a9fe]/"), "url", "169.254.169.254 is a metadata service"},
		{"NAT64", url("http://[64:ff9b::7f00:1]/"), "url", "64:ff9b::7f00:1 is of a translator"},
		{"6to4", url("http://[2002:7f00:1::]/"), "url", "2002:7f00:1:: is of a 6to4 tunnel"},
		{"private", url("http://10.0.0.7/"), "url", `10.0.0.7 is private; to send there all the same: allow_private: ["10.0.0.7/32"]`},
		{"zone", url("http://[fe80::1%25eth0]/"), "url", "an address with a zone"},
		{"localhost", url("http://localhost:8080/"), "url", "127.0.0.1 is loopback"},
		{"localhost, otherwise", url("http://a.LocalHost./"), "url", "127.0.0.1 is loopback"},
		{"empty secret", Forward{URL: "https://mirror.example", Secret: []byte{}}, "secret", "empty: anybody could sign with it"},
		{"timeout", Forward{URL: "https://mirror.example", Timeout: -time.Second}, "timeout", "-1s: want more than 0"},
		{"no name", header("", "x"), `headers.""`, "no name of a header"},
		{"blank in a name", header("X Y", "x"), `headers."X Y"`, "no name of a header"},
		{"colon in a name", header("X:", "x"), `headers."X:"`, "no name of a header"},
		{"line break in a name", header("X\r\nY", "x"), `headers."X\r\nY"`, "no name of a header"},
		{"line break in a value", header("X-Y", "secret\r\nX: y"), "headers.X-Y", "its value holds a line break"},
		{"NUL in a value", header("X-Y", "a\x00"), "headers.X-Y", "its value holds a line break"},
		{"DEL in a value", header("X-Y", "a\x7f"), "headers.X-Y", "its value holds a line break"},
		{"signature", header("x-hub-signature-256", "x"), "headers.x-hub-signature-256", "set by this program; remove it"},
		{"key", header("Idempotency-Key", "x"), "headers.Idempotency-Key", "set by this program"},
		{"attempt", header("orchestrate-attempt", "x"), "headers.orchestrate-attempt", "set by this program"},
		{"event", header("X-Github-Event", "x"), "headers.X-Github-Event", "set by this program"},
		{"content type", header("Content-Type", "x"), "headers.Content-Type", "set by this program"},
		{"host", header("Host", "x"), "headers.Host", "set by this program"},
		{"length", header("Content-Length", "0"), "headers.Content-Length", "set by this program"},
		{"encoding", header("Transfer-Encoding", "chunked"), "headers.Transfer-Encoding", "set by this program"},
		{"proxy", header("Proxy-Authorization", "x"), "headers.Proxy-Authorization", "set by this program"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := NewForward(tt.f, nil)
			var field *queue.FieldError
			if h != nil || !errors.As(err, &field) || field.Field != "forward."+tt.field || !strings.Contains(field.Err.Error(), tt.want) {
				t.Errorf("NewForward = %v, %v; want forward.%s: %s", h, err, tt.field, tt.want)
			}
			if strings.Contains(message(err), "secret\r") {
				t.Errorf("error %q shows the value", err)
			}
		})
	}
}

func TestNewForwardTellsAll(t *testing.T) {
	_, err := NewForward(Forward{
		URL: "ftp://x", Secret: []byte{}, Timeout: -1, AllowPrivate: []string{"x", "10.0.0.0/8", "y"},
		Headers: map[string]ForwardHeader{"Host": {Value: "x"}, "X-A": {Value: "1"}, "x-a": {Value: "2"}},
	}, nil)
	var got []string
	var walk func(error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, err := range joined.Unwrap() {
				walk(err)
			}
			return
		}
		var field *queue.FieldError
		if !errors.As(err, &field) {
			t.Errorf("%T %v, want a FieldError", err, err)
			return
		}
		got = append(got, field.Field)
	}
	walk(err)
	want := []string{"forward.url", "forward.secret", "forward.headers.Host", "forward.headers.x-a", "forward.timeout", "forward.allow_private[0]", "forward.allow_private[2]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestNewForwardTakes(t *testing.T) {
	for _, f := range []Forward{
		{URL: "https://mirror.example"},
		{URL: "HTTPS://Mirror.Example.:8443/a/b?c=d&e"},
		{URL: "http://mirror"},
		{URL: "https://my_host.internal/"},
		{URL: "https://xn--bcher-kva.example/"},
		{URL: "https://1.2.3.4.example/"},
		{URL: "https://140.82.121.4/"},
		{URL: "https://[2606:50c0:8000::153]/"},
		{URL: "http://127.0.0.1:8080", AllowPrivate: []string{"127.0.0.0/8"}},
		{URL: "http://localhost:8080", AllowPrivate: []string{"127.0.0.0/8"}},
		{URL: "http://localhost:8080", AllowPrivate: []string{"::1/128"}},
		{URL: "http://[::ffff:10.0.0.1]", AllowPrivate: []string{"10.0.0.0/8"}},
		{URL: "https://mirror.example", Headers: map[string]ForwardHeader{"User-Agent": {Value: "GitHub-Hookshot/0"}}},
	} {
		if _, err := NewForward(f, nil); err != nil {
			t.Errorf("NewForward(%s, allow %v) = %v, want none", f.URL, f.AllowPrivate, err)
		}
	}
}

// TestForwardUserAgent: some receivers want GitHub's.
func TestForwardUserAgent(t *testing.T) {
	p, err := newForward(t, Forward{URL: "https://mirror.example", Headers: map[string]ForwardHeader{"user-agent": {Value: "GitHub-Hookshot/0"}}}).Preview(task(`{}`))
	if got := p.Forward.Headers["User-Agent"]; err != nil || got != "GitHub-Hookshot/0" {
		t.Errorf("User-Agent = %q, %v; want the configured one", got, err)
	}
}

// TestForwardDocs holds the reference to what is refused and what is sent.
func TestForwardDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/forward.md")
	if err != nil {
		t.Fatal(err)
	}
	words := slices.Concat(passedHeaders, []string{headerSignature, headerKey, headerAttempt, DefaultForwardTimeout.String()})
	for _, b := range blocks {
		switch {
		case b.is == "reserved" && b.prefix.Addr().Is6():
			words = append(words, "2000::/3")
		case b.prefix.IsSingleIP():
			words = append(words, b.prefix.Addr().String())
		default:
			words = append(words, b.prefix.String())
		}
	}
	for _, w := range words {
		if !strings.Contains(string(page), "`"+w) {
			t.Errorf("docs/reference/forward.md does not have `%s`", w)
		}
	}
}

func FuzzForwardURL(f *testing.F) {
	for _, s := range []string{"https://mirror.example/hook?a=b", "http://127.1", "http://[::1%25x]:80/", "http://0x7f.1", "https://a..b", "http://１.1", "http://h/?a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseTarget(s, nil)
		if err != nil {
			return
		}
		h := newForward(t, Forward{URL: s})
		req, err := h.request(t.Context(), task(`{}`))
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		var wire bytes.Buffer
		if err := req.Write(&wire); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		line, _, _ := strings.Cut(wire.String(), "\r\n")
		if strings.Count(line, " ") != 2 || u.Hostname() == "" || net.ParseIP(u.Hostname()).IsLoopback() {
			t.Errorf("%q makes %q to host %q", s, line, u.Hostname())
		}
	})
}

func BenchmarkForward(b *testing.B) {
	body := strings.Repeat("x", 10<<10)
	serve := func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	run := func(b *testing.B, h *forward) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.Handle(b.Context(), task(body)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("HTTP/1", func(b *testing.B) {
		srv := receiver(b, serve)
		run(b, newForward(b, Forward{URL: srv.URL, Secret: []byte("0123456789abcdef"), AllowPrivate: []string{"127.0.0.0/8"}}))
	})
	b.Run("HTTP/2 over TLS", func(b *testing.B) {
		_, h := tlsReceiver(b, serve)
		run(b, h)
	})
}

// TestForwardToASecretURL: an address that is a secret is shown nowhere, not
// even where the receiver repeats it.
func TestForwardToASecretURL(t *testing.T) {
	const token = "dGhlIHRva2Vu-of-a-hook"
	srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, "Cannot POST %s", r.URL.Path)
	})
	h := newForward(t, Forward{URL: srv.URL + "/hooks/" + token, URLFrom: "env:HOOK_URL", AllowPrivate: []string{"127.0.0.0/8"}})
	task := task(`{}`)
	p, err := h.Preview(task)
	if err != nil || p.Forward.URL != "env:HOOK_URL" {
		t.Errorf("Preview: %+v, %v; want the reference", p.Forward, err)
	}
	res, err := h.Handle(t.Context(), task)
	if err == nil || strings.Contains(err.Error()+string(res.Output), token) {
		t.Errorf("the token is shown: %v, %q", err, res.Output)
	}
	if want := "Cannot POST /hooks/***"; string(res.Output) != want {
		t.Errorf("got %q, want %q", res.Output, want)
	}

	unread := newForward(t, Forward{URLFrom: "env:HOOK_URL"})
	if p, err := unread.Preview(task); err != nil || p.Forward.URL != "env:HOOK_URL" {
		t.Errorf("Preview without the URL: %+v, %v", p.Forward, err)
	}
	if _, err := unread.Handle(t.Context(), task); err == nil || !strings.Contains(err.Error(), "not read from env:HOOK_URL") {
		t.Errorf("Handle without the URL: %v", err)
	}
}

// TestNoErrorShowsASecret: what a receiver sends instead of HTTP is quoted in the
// error, and it may send back what it got.
func TestNoErrorShowsASecret(t *testing.T) {
	const token = "secret-token-999"
	addr := rawReceiver(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nBearer_%s\r\n\r\n", token)
	})
	h := newForward(t, Forward{
		URL: "http://" + addr, AllowPrivate: []string{"127.0.0.0/8"},
		Headers: map[string]ForwardHeader{"Authorization": {Value: "Bearer " + token, From: "env:TOKEN"}},
	})
	_, err := h.Handle(t.Context(), task(`{}`))
	if err == nil || strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), masked) {
		t.Errorf("got %v, want an error with the token masked", err)
	}
}

// TestSecretAcrossTheEnd of what is kept of an answer is masked, too.
func TestSecretAcrossTheEnd(t *testing.T) {
	secret := strings.Repeat("s3cr3t", 20)
	srv := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", queue.MaxOutput-60)+secret+"and more")
	})
	h := newForward(t, Forward{URL: srv.URL, Secret: []byte(secret), SecretFrom: "env:S", AllowPrivate: []string{"127.0.0.0/8"}})
	res, err := h.Handle(t.Context(), task(`{}`))
	if err != nil || len(res.Output) > queue.MaxOutput || strings.Contains(string(res.Output), "s3cr3t") {
		t.Errorf("%d bytes kept, %v; want none of the secret in them", len(res.Output), err)
	}
}
