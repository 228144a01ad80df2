package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Pooler shares few connections among many clients, each for one transaction,
// as PgBouncer does in transaction mode: another time a client gets another
// connection. It refuses what PgBouncer refuses.
type Pooler struct {
	ln       net.Listener
	target   string
	backends chan net.Conn
	greeting []byte
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn

	Transactions atomic.Int64
	Named        atomic.Int64 // prepared statements with a name
}

// tracked are the parameters that PgBouncer lets a client set at the start.
const tracked = " user database application_name client_encoding DateStyle TimeZone standard_conforming_strings "

// NewPooler opens the connections to a database and listens until the test ends.
func NewPooler(t testing.TB, target string, size int) *Pooler {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Pooler{ln: ln, target: target, backends: make(chan net.Conn, size)}
	for range size {
		conn, err := pgconn.Connect(context.Background(), target)
		if err != nil {
			t.Fatal(err)
		}
		h, err := conn.Hijack()
		if err != nil {
			t.Fatal(err)
		}
		p.greeting = greeting(h.ParameterStatuses)
		p.backends <- h.Conn
		p.conns = append(p.conns, h.Conn)
	}
	p.wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, client)
			p.mu.Unlock()
			p.wg.Go(func() {
				defer func() { _ = client.Close() }()
				if p.greet(client) {
					p.serve(client)
				}
			})
		}
	})
	t.Cleanup(p.close)
	return p
}

func (p *Pooler) close() {
	_ = p.ln.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// URL is that of the database, by way of the pooler.
func (p *Pooler) URL() string {
	u, err := url.Parse(p.target)
	if err != nil {
		panic(err) // a server's URL is our own
	}
	u.Host = p.ln.Addr().String()
	return u.String()
}

func greeting(status map[string]string) []byte {
	out, _ := (&pgproto3.AuthenticationOk{}).Encode(nil)
	for name, value := range status {
		out, _ = (&pgproto3.ParameterStatus{Name: name, Value: value}).Encode(out)
	}
	out, _ = (&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}}).Encode(out)
	out, _ = (&pgproto3.ReadyForQuery{TxStatus: 'I'}).Encode(out)
	return out
}

func (p *Pooler) greet(client net.Conn) bool {
	_, frame, err := readFrame(client, true)
	if err != nil || len(frame) < 8 {
		return false
	}
	fields := bytes.Split(frame[8:], []byte{0})
	for i := 0; i+1 < len(fields) && len(fields[i]) > 0; i += 2 {
		if name := string(fields[i]); !strings.Contains(tracked, " "+name+" ") {
			out, _ := (&pgproto3.ErrorResponse{
				Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "08P01",
				Message: "unsupported startup parameter: " + name,
			}).Encode(nil)
			_, _ = client.Write(out)
			return false
		}
	}
	_, err = client.Write(p.greeting)
	return err == nil
}

func (p *Pooler) serve(client net.Conn) {
	var backend net.Conn
	defer func() {
		if backend != nil { // in the middle of a transaction
			_ = backend.Close()
		}
	}()
	for {
		kind, frame, err := readFrame(client, false)
		if err != nil || kind == 'X' {
			return
		}
		if kind == 'P' && frame[5] != 0 {
			p.Named.Add(1)
		}
		if backend == nil {
			backend = <-p.backends
		}
		if _, err := backend.Write(frame); err != nil {
			return
		}
		if kind != 'Q' && kind != 'S' {
			continue
		}
		status, err := answer(client, backend)
		if err != nil {
			return
		}
		if status == 'I' {
			p.Transactions.Add(1)
			p.backends <- backend
			backend = nil
		}
	}
}

// answer passes on what the server says until it waits for the next query.
func answer(client, backend net.Conn) (status byte, err error) {
	for {
		kind, frame, err := readFrame(backend, false)
		if err != nil {
			return 0, err
		}
		if _, err := client.Write(frame); err != nil {
			return 0, fmt.Errorf("answer the client: %w", err)
		}
		if kind == 'Z' {
			return frame[5], nil
		}
	}
}
