package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
)

func isClosed(t *testing.T, c net.Conn) bool {
	t.Helper()
	if err := c.SetReadDeadline(queue.Clock().Add(time.Millisecond)); err != nil {
		return true // a pipe whose other end is closed
	}
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// TestTooManyConnections: whoever has waited longest goes, whether half a header,
// half a body or nothing came from it; who is about to be answered stays.
func TestTooManyConnections(t *testing.T) {
	var kept stored
	inBubble(t, Limits{Conns: 4}, func(t *testing.T, b *bubble) {
		open := make(chan struct{})
		b.receive = func(ctx context.Context, e *queue.Event, p *queue.Payload) (queue.Receipt, error) {
			<-open
			return kept.Receive(ctx, e, p)
		}
		storing := send(t, b) // the first of all, but it is our turn
		synctest.Wait()
		slow := []net.Conn{b.dial(t), b.dial(t), b.dial(t)}
		for i, sent := range []string{"", "POST / HTTP/1.1\r\nHost:", request("{}", "{")} {
			if _, err := io.WriteString(slow[i], sent); err != nil {
				t.Fatal(err)
			}
		}
		for i := range slow {
			synctest.Wait()
			if isClosed(t, slow[i]) {
				t.Errorf("connection %d is closed while there is room", i)
			}
			b.dial(t)
			synctest.Wait()
			if !isClosed(t, slow[i]) {
				t.Errorf("connection %d, the oldest, is still open beyond the bound", i)
			}
		}
		close(open)
		if got := <-storing; got.status != 200 || kept.count() != 1 {
			t.Errorf("the delivery that was being stored: got %d, %d stored; want 200 and 1", got.status, kept.count())
		}
		if got := len(b.log.lines(`"msg":"refused"`, "4 connections are open")); got != 3 {
			t.Errorf("%d lines for 3 connections:\n%s", got, b.log.String())
		}
	})
}

// TestIdleConnectionsCount: a connection that is kept after its answer waits for
// its sender, like a new one.
func TestIdleConnectionsCount(t *testing.T) {
	inBubble(t, Limits{Conns: 2}, func(t *testing.T, b *bubble) {
		first := b.dial(t)
		if resp, answer := exchange(t, first, request("{}", "{}")); resp.status != 200 {
			t.Fatalf("got %d %q, want 200", resp.status, answer)
		}
		synctest.Wait() // the answer is there before the connection is idle
		second := b.dial(t)
		synctest.Wait()
		b.dial(t)
		synctest.Wait()
		if !isClosed(t, first) || isClosed(t, second) {
			t.Errorf("the idle connection is closed: %v, the newer one: %v; want true, false", isClosed(t, first), isClosed(t, second))
		}
	})
}

func TestConnsKeepDescriptorsForTheStore(t *testing.T) {
	const listeners = 2
	if got, most := listeners*(Limits{Conns: 1 << 30}).orDefaults().Conns, descriptors()/2; got > most {
		t.Errorf("got %d connections of both listeners, want %d or less", got, most)
	}
}

// TestFraming: nothing behind a body whose end can be read in two ways is taken
// for a request.
func TestFraming(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked\r\n"
	const body, chunks = `{"a":1}`, "7\r\n{\"a\":1}\r\n0\r\n\r\n"
	for _, c := range []struct {
		name, headers, sent string
		status              int
	}{
		{"one length", "Content-Length: 7\r\n", body, 200},
		{"the same length twice", "Content-Length: 7\r\nContent-Length: 7\r\n", body, 200},
		{"two lengths", "Content-Length: 7\r\nContent-Length: 8\r\n", body, 400},
		{"two lengths in one", "Content-Length: 7, 8\r\n", body, 400},
		{"a negative length", "Content-Length: -7\r\n", body, 400},
		{"a signed length", "Content-Length: +7\r\n", body, 400},
		{"a hexadecimal length", "Content-Length: 0x7\r\n", body, 400},
		{"a huge length", "Content-Length: 99999999999999999999\r\n", body, 400},
		{"no length", "", body, 401},
		{"chunks", chunked, chunks, 200},
		{"chunks and a length", chunked + "Content-Length: 7\r\n", chunks, 200},
		{"a length and chunks", "Content-Length: 3\r\n" + chunked, chunks, 200},
		{"chunked twice", chunked + chunked, chunks, 501},
		{"chunked, then another", "Transfer-Encoding: chunked, identity\r\n", chunks, 501},
		{"unknown encoding", "Transfer-Encoding: gzip\r\n", body, 501},
		{"hidden encoding", "Transfer-Encoding: \x0bchunked\r\n", chunks, 400},
		{"a blank before the colon", "Transfer-Encoding : chunked\r\n", chunks, 400},
		{"a folded header", "X-A: b\r\n c: d\r\nContent-Length: 7\r\n", body, 200},
		{"a chunk of no number", chunked, "x\r\n{}\r\n0\r\n\r\n", 400},
		{"a chunk of a negative size", chunked, "-7\r\n{\"a\":1}\r\n0\r\n\r\n", 400},
		{"a chunk too long for a number", chunked, "fffffffffffffffff\r\n{}\r\n0\r\n\r\n", 400},
		{"an endless extension of a chunk", chunked, "7;" + strings.Repeat("x", 1<<20), 400},
		{"an endless trailer", chunked, "7\r\n{\"a\":1}\r\n0\r\n" + strings.Repeat("a: b\r\n", 1<<20), 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var kept stored
			addr := listen(t, newServer(t, &kept, io.Discard, Limits{}).ServeIntake)
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			go func() { // it may be answered before all is taken
				head := strings.Replace(request(body, ""), "Content-Length: 7\r\n", c.headers, 1)
				_, _ = io.WriteString(conn, head+c.sent)
			}()
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			reply, answer := read(t, resp)
			if reply.status != c.status || kept.count() != map[bool]int{true: 1}[c.status == 200] {
				t.Errorf("got %d %q and %d stored, want %d", reply.status, answer, kept.count(), c.status)
			}
			if want := strings.Contains(c.headers, chunked) || c.status >= 400 && c.status != 401; reply.closes != want {
				t.Errorf("the connection closes: %v, want %v", reply.closes, want)
			}
			_ = resp.Body.Close()
		})
	}
}

// TestPipelining: requests that come at once are answered in their order.
func TestPipelining(t *testing.T) {
	t.Parallel()
	var kept stored
	addr := listen(t, newServer(t, &kept, io.Discard, Limits{}).ServeIntake)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var all strings.Builder
	for i := range 20 {
		all.WriteString(strings.Replace(request("{}", "{}"), "guid-1", fmt.Sprint("guid-", i), 1))
		all.WriteString(strings.Replace(request("{}", "{}"), "sha256=", "sha256=0", 1))
	}
	if _, err := io.WriteString(conn, all.String()); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for i := range 40 {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := read(t, resp); got.status != []int{200, 401}[i%2] {
			t.Errorf("answer %d: got %d", i, got.status)
		}
		_ = resp.Body.Close()
	}
	if kept.count() != 20 {
		t.Errorf("%d stored, want 20", kept.count())
	}
}

func TestOldProtocols(t *testing.T) {
	t.Parallel()
	addr := listen(t, newServer(t, &stored{}, io.Discard, Limits{}).ServeIntake)
	for _, c := range []struct {
		name, from, to string
		status         int
	}{
		{"HTTP/1.0", "HTTP/1.1\r\nHost: x\r\n", "HTTP/1.0\r\n", 200},
		{"HTTP/1.1 without Host", "Host: x\r\n", "", 400},
		{"two Hosts", "Host: x\r\n", "Host: x\r\nHost: y\r\n", 400},
		{"HTTP/2.0", "HTTP/1.1", "HTTP/2.0", 505},
		{"HTTP/0.9", "HTTP/1.1", "HTTP/0.9", 505},
		{"no version", " HTTP/1.1", "", 400},
		{"unknown expectation", "Host: x\r\n", "Host: x\r\nExpect: the-unexpected\r\n", 417},
		{"absolute URL", "POST /", "POST http://elsewhere.example/", 200},
	} {
		if got, answer := raw(t, addr, strings.Replace(request("{}", "{}"), c.from, c.to, 1)); got.status != c.status {
			t.Errorf("%s: got %d %q, want %d", c.name, got.status, answer, c.status)
		}
	}
}

// TestAdminHost: a page whose name was made to lead to the loopback reads
// nothing.
func TestAdminHost(t *testing.T) {
	s := newServer(t, &stored{}, io.Discard, Limits{})
	s.adminAs = "orchestrate.internal"
	addr := listen(t, s.ServeAdmin)
	for host, status := range map[string]int{
		addr: 200, "127.0.0.1": 200, "[::1]:9001": 200, "[::1]": 200, "192.0.2.7:9001": 200,
		"localhost:9001": 200, "LOCALHOST": 200, "localhost.": 200, "a.localhost:1": 200,
		"orchestrate.internal:9001": 200, "Orchestrate.Internal": 200,
		"evil.example": 421, "evil.example:9001": 421, "localhost.evil.example": 421, "notlocalhost": 421,
		"127.0.0.1.evil.example": 421, "2130706433": 421, "0x7f.1": 421, "orchestrate": 421,
	} {
		for _, path := range []string{"/livez", "/readyz", "/"} {
			want := status
			if path == "/" && status == 200 {
				want = 404
			}
			if got, answer := raw(t, addr, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); got.status != want {
				t.Errorf("%s of %s: got %d %q, want %d", path, host, got.status, answer, want)
			}
		}
	}
	if got, answer := raw(t, addr, "GET /livez HTTP/1.0\r\n\r\n"); got.status != 200 {
		t.Errorf("without Host: got %d %q, want 200", got.status, answer)
	}
}
