package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

// pipes is a listener in memory, so that time in a test is the bubble's.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.dialled:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

func (p *pipes) dial(t testing.TB) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	select {
	case p.dialled <- theirs:
	case <-p.closed:
		t.Fatal("nobody listens")
	}
	t.Cleanup(func() { _ = ours.Close() })
	return ours
}

// bubble is a server whose time is that of a synctest bubble.
type bubble struct {
	*Server
	*pipes
	log     logBuffer
	receive receiver // what its receiver does
	stop    func() error
}

func inBubble(t *testing.T, l Limits, test func(*testing.T, *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{pipes: newPipes(), receive: (&stored{}).Receive}
		b.Server = newServer(t, receiver(func(ctx context.Context, e *queue.Event, p *queue.Payload) (queue.Receipt, error) {
			return b.receive(ctx, e, p)
		}), &b.log, l)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- b.ServeIntake(ctx, b.pipes)
			close(done)
		}()
		b.stop = func() error {
			cancel()
			return <-done
		}
		t.Cleanup(func() {
			if err := b.stop(); err != nil {
				t.Errorf("serve: %v", err)
			}
			if got := b.memory.free.Load(); got != b.limits.Memory {
				t.Errorf("%d bytes are still held", b.limits.Memory-got)
			}
		})
		test(t, b)
	})
}

// request is a good one as bytes, with as much of its body as is sent.
func request(body, sent string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"X-GitHub-Event: push\r\nX-GitHub-Delivery: guid-1\r\nX-Hub-Signature-256: %s\r\n\r\n%s",
		hookPath, len(body), webhook.Sign([]byte(body), secret), sent)
}

// wantAfter checks how long something took since start.
func wantAfter(t testing.TB, start time.Time, want time.Duration) {
	t.Helper()
	if got := queue.Clock().Sub(start); got != want {
		t.Errorf("took %s, want %s", got, want)
	}
}

func TestSlowBody(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		start, conn := queue.Clock(), b.dial(t)
		body := `{"x":"` + strings.Repeat("x", 100) + `"}`
		var sender sync.WaitGroup
		sender.Go(func() { // a byte a second
			for i := range len(body) {
				<-time.After(time.Second)
				if _, err := io.WriteString(conn, body[i:i+1]); err != nil {
					return
				}
			}
		})
		resp, answer := exchange(t, conn, request(body, ""))
		wantError(t, resp, answer, 408)
		wantAfter(t, start, 7*time.Second)
		sender.Wait()
		if len(b.log.lines(`"msg":"refused"`, `"status":408`, "7s")) != 1 {
			t.Errorf("the log is:\n%s", b.log.String())
		}
	})
}

func TestSlowBodyInTime(t *testing.T) {
	var kept stored
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		b.receive = kept.Receive
		conn := b.dial(t)
		for range 2 { // the second one finds no deadline of the first
			start := queue.Clock()
			if _, err := io.WriteString(conn, request("{}", "{")); err != nil {
				t.Fatal(err)
			}
			<-time.After(6 * time.Second)
			if resp, answer := exchange(t, conn, "}"); resp.status != 200 {
				t.Errorf("got %d %q, want 200", resp.status, answer)
			}
			wantAfter(t, start, 6*time.Second)
		}
	})
}

func TestSlowHeader(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		start, conn := queue.Clock(), b.dial(t)
		if _, err := io.WriteString(conn, "POST "+hookPath+" HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
			t.Errorf("got %d bytes, %v, want a closed connection", n, err)
		}
		wantAfter(t, start, 5*time.Second)
	})
}

// The answer to a request that is refused at sight does not wait for its body.
func TestRefusalBeforeBody(t *testing.T) {
	for name, request := range map[string]string{
		"path":   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
		"method": "PUT " + hookPath + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
				start, conn := queue.Clock(), b.dial(t)
				resp, _ := exchange(t, conn, request)
				if resp.status/100 != 4 || !resp.closes {
					t.Errorf("got %d, close %v, want a refusal that closes", resp.status, resp.closes)
				}
				wantAfter(t, start, 0)
				_, _ = io.Copy(io.Discard, conn)
				wantAfter(t, start, 7*time.Second) // the connection ends, too
			})
		})
	}
}

func TestBodyCutShort(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		conn := b.dial(t)
		if _, err := io.WriteString(conn, request("{}", "{")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it reads the body
		_ = conn.Close()
		synctest.Wait()
		if len(b.log.lines(`"status":400`, "unexpected EOF")) != 1 {
			t.Errorf("the log is:\n%s", b.log.String())
		}
	})
}

// hung is a receiver that nothing but its context ends.
var hung = receiver(func(ctx context.Context, _ *queue.Event, _ *queue.Payload) (queue.Receipt, error) {
	<-ctx.Done()
	return queue.Receipt{}, ctx.Err()
})

func TestHungStore(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		b.receive = hung
		start, conn := queue.Clock(), b.dial(t)
		if _, err := io.WriteString(conn, request("{}", "{")); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Second) // the body's time counts
		resp, answer := exchange(t, conn, "}")
		wantError(t, resp, answer, 503)
		wantAfter(t, start, 8*time.Second)
		if len(b.log.lines(`"level":"ERROR"`, "context deadline exceeded")) != 1 {
			t.Errorf("the log is:\n%s", b.log.String())
		}
		b.receive = (&stored{}).Receive
		if resp, answer := exchange(t, conn, request("{}", "{}")); resp.status != 200 {
			t.Errorf("the same connection, the store back: got %d %q, want 200", resp.status, answer)
		}
	})
}

// gate is a receiver that lets through what the test lets through.
func gate(open <-chan struct{}) receiver {
	return func(ctx context.Context, e *queue.Event, _ *queue.Payload) (queue.Receipt, error) {
		select {
		case <-open:
			return queue.Receipt{EventID: 1, DeliveryID: e.DeliveryID}, nil
		case <-ctx.Done():
			return queue.Receipt{}, ctx.Err()
		}
	}
}

type result struct {
	status int
	body   string
}

// send posts a good request and returns where its answer will be.
func send(t *testing.T, b *bubble) <-chan result {
	t.Helper()
	conn, answer := b.dial(t), make(chan result, 1)
	go func() {
		resp, body := exchange(t, conn, request("{}", "{}"))
		answer <- result{resp.status, body}
	}()
	synctest.Wait()
	return answer
}

func TestWaitForAPlaceInTheStore(t *testing.T) {
	inBubble(t, Limits{Stores: 1}, func(t *testing.T, b *bubble) {
		open := make(chan struct{})
		b.receive = gate(open)
		first, second := send(t, b), send(t, b)
		open <- struct{}{}
		if got := <-first; got.status != 200 {
			t.Errorf("first: got %+v, want 200", got)
		}
		open <- struct{}{}
		if got := <-second; got.status != 200 {
			t.Errorf("second, after the first: got %+v, want 200", got)
		}
	})
}

func TestNoPlaceInTheStore(t *testing.T) {
	inBubble(t, Limits{Stores: 1}, func(t *testing.T, b *bubble) {
		b.receive = hung
		start := queue.Clock()
		first, second := send(t, b), send(t, b)
		for range 2 {
			select {
			case got := <-first:
				if got.status != 503 {
					t.Errorf("first: got %+v, want 503", got)
				}
			case got := <-second:
				if got.status != 503 {
					t.Errorf("second: got %+v, want 503", got)
				}
			}
		}
		wantAfter(t, start, 8*time.Second)
		if len(b.log.lines(`"level":"ERROR"`, "delivery not stored")) != 2 {
			t.Errorf("the log is:\n%s", b.log.String())
		}
	})
}

func TestMemoryIsTakenAsBytesArrive(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		conn := b.dial(t)
		body := `{"x":"` + strings.Repeat("x", 2<<20) + `"}`
		held := func() int64 {
			synctest.Wait()
			return b.limits.Memory - b.memory.free.Load()
		}
		if _, err := io.WriteString(conn, request(body, "")); err != nil {
			t.Fatal(err)
		}
		if got := held(); got > requestCost+firstRead {
			t.Errorf("%d bytes held for an announcement", got)
		}
		const half = 1 << 20
		if _, err := io.WriteString(conn, body[:half]); err != nil {
			t.Fatal(err)
		}
		if got := held(); got < half || got > 2*half+requestCost {
			t.Errorf("%d bytes held when %d had arrived", got, half)
		}
		if resp, answer := exchange(t, conn, body[half:]); resp.status != 200 {
			t.Errorf("got %d %q, want 200", resp.status, answer)
		}
	})
}

func TestMemoryRunsOut(t *testing.T) {
	var kept stored
	inBubble(t, Limits{Memory: 2 * (requestCost + firstRead)}, func(t *testing.T, b *bubble) {
		b.receive = kept.Receive
		body := `{"x":"` + strings.Repeat("x", firstRead) + `"}`
		slow := []net.Conn{b.dial(t), b.dial(t)}
		for _, conn := range slow { // both hold what a request gets, and fill none of it
			if _, err := io.WriteString(conn, request(body, body[:1])); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		resp, answer := exchange(t, b.dial(t), request("{}", ""))
		wantError(t, resp, answer, 503)
		if resp, answer := exchange(t, slow[0], body[1:]); resp.status != 503 {
			t.Errorf("a body that needs more than there is: got %d %q, want 503", resp.status, answer)
		}
		if resp, answer := exchange(t, slow[1], body[1:]); resp.status != 200 {
			t.Errorf("when there is room again: got %d %q, want 200", resp.status, answer)
		}
		if kept.count() != 1 || len(b.log.lines(`"level":"WARN"`, `"status":503`)) != 2 {
			t.Errorf("stored %d, the log is:\n%s", kept.count(), b.log.String())
		}
	})
}

func TestClientThatHangsUp(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		ended, open := make(chan error, 1), make(chan struct{})
		b.receive = func(ctx context.Context, e *queue.Event, p *queue.Payload) (queue.Receipt, error) {
			receipt, err := gate(open)(ctx, e, p)
			ended <- err
			return receipt, err
		}
		conn := b.dial(t)
		if _, err := io.WriteString(conn, request("{}", "{}")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_ = conn.Close()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("Receive ended with its client: %v", err)
		default:
		}
		close(open)
		if err := <-ended; err != nil {
			t.Errorf("Receive: %v", err)
		}
	})
}

func TestShutdown(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		open := make(chan struct{})
		b.receive = gate(open)
		idle := b.dial(t)
		if resp, _ := exchange(t, idle, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); resp.status != 404 {
			t.Fatalf("got %d", resp.status)
		}
		answer := send(t, b)
		stopped := make(chan error, 1)
		go func() { stopped <- b.stop() }()
		synctest.Wait()
		select {
		case <-b.closed:
		default:
			t.Error("still listening")
		}
		select {
		case err := <-stopped:
			t.Fatalf("serving ended with a request open: %v", err)
		default:
		}
		close(open)
		if got := <-answer; got.status != 200 {
			t.Errorf("the open request: got %+v, want 200", got)
		}
		if err := <-stopped; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func TestShutdownIsBounded(t *testing.T) {
	inBubble(t, Limits{Drain: 3 * time.Second}, func(t *testing.T, b *bubble) {
		conn := b.dial(t)
		if _, err := io.WriteString(conn, request("{}", "{")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := queue.Clock()
		if err := b.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
		wantAfter(t, start, 3*time.Second)
		if _, err := bufio.NewReader(conn).ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("the request that was cut off: got %v, want EOF", err)
		}
		if len(b.log.lines("requests cut off")) != 1 {
			t.Errorf("the log is:\n%s", b.log.String())
		}
	})
}

// A client that does not take its answer does not keep its connection.
func TestAnswerNotTaken(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		conn := b.dial(t)
		if _, err := io.WriteString(conn, request("{}", "{}")); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Second)
		synctest.Wait()
		if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
			t.Errorf("got %d bytes, %v, want a closed connection", n, err)
		}
	})
}

func TestIdleConnectionEnds(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, b *bubble) {
		conn := b.dial(t)
		if resp, _ := exchange(t, conn, request("{}", "{}")); resp.status != 200 {
			t.Fatalf("got %d", resp.status)
		}
		start := queue.Clock()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want EOF", err)
		}
		wantAfter(t, start, time.Minute)
	})
}

func TestHeaderTooLarge(t *testing.T) {
	inBubble(t, Limits{Headers: 1000}, func(t *testing.T, b *bubble) {
		conn := b.dial(t)
		go func() { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 10_000)) }()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		if resp, _ := read(t, answer); resp.status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %d, want 431", resp.status)
		}
	})
}

func TestFloodOfRefusals(t *testing.T) {
	inBubble(t, Limits{Log: 3}, func(t *testing.T, b *bubble) {
		flood := func(n int, request string) {
			for range n {
				exchange(t, b.dial(t), request)
			}
		}
		forged := strings.Replace(request("{}", "{}"), "sha256=", "sha512=", 1)
		shown := func() [3]int {
			return [3]int{
				len(b.log.lines(`"msg":"refused"`, `"status":401`)), len(b.log.lines(`"msg":"refused"`, `"status":404`)),
				len(b.log.lines(`"msg":"refused more than were shown"`)),
			}
		}
		for _, step := range []struct {
			name           string
			forged, strays int
			wait           time.Duration
			want           [3]int // lines so far: 401, 404, sums
		}{
			{"a few are shown", 2, 3, 0, [3]int{2, 3, 0}},
			{"no more than the limit", 100, 0, 0, [3]int{3, 3, 0}},
			{"the sum after a minute", 0, 0, time.Minute, [3]int{3, 3, 1}},
			{"no sum where all were shown", 1, 0, time.Minute, [3]int{4, 3, 1}},
			{"more in the next minute", 5, 5, 0, [3]int{7, 6, 1}},
		} {
			flood(step.forged, forged)
			flood(step.strays, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if step.wait > 0 {
				<-time.After(step.wait)
				synctest.Wait()
			}
			if got := shown(); got != step.want {
				t.Errorf("%s: got %v lines, want %v", step.name, got, step.want)
			}
		}
		if len(b.log.lines(`"status":401`, `"not_shown":99`)) != 1 {
			t.Errorf("the sum is wrong; the log is:\n%s", b.log.String())
		}
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		if got, want := shown(), [3]int{7, 6, 3}; got != want {
			t.Errorf("at the end: got %v lines, want %v", got, want)
		}
	})
}

func FuzzReadAll(f *testing.F) {
	f.Add([]byte("{}"), int64(2), int64(1<<20))
	f.Add(bytes.Repeat([]byte("x"), firstRead+1), int64(-1), int64(1<<20))
	f.Add(bytes.Repeat([]byte("x"), 5*firstRead), int64(5*firstRead), int64(100))
	f.Add([]byte{}, int64(1<<40), int64(1<<20))
	f.Fuzz(func(t *testing.T, body []byte, announced, budget int64) {
		var m memory
		m.free.Store(max(budget, 0))
		held := m.hold()
		got, err := readAll(bytes.NewReader(body), announced, held)
		switch {
		case errors.Is(err, errOverloaded):
			if budget >= int64(requestCost+firstRead+2*len(body)) {
				t.Errorf("%d bytes, announced as %d, did not fit into %d", len(body), announced, budget)
			}
		case err != nil || !bytes.Equal(got, body):
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(body))
		case held.bytes < int64(cap(got)) || held.bytes > budget:
			t.Errorf("holds %d bytes for a buffer of %d, of %d", held.bytes, cap(got), budget)
		}
		if held.release(); m.free.Load() != max(budget, 0) {
			t.Errorf("%d bytes free afterwards, want %d", m.free.Load(), budget)
		}
	})
}
