package pgtest

import (
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and the server and breaks what is between them.
type Proxy struct {
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]bool
	refuses bool
	frozen  map[net.Conn]bool // clients' connections that have gone silent
	rule    *rule
	held    chan struct{} // closed when messages pass again; nil while they do
	latency time.Duration
	linger  time.Duration
}

// rule says at which message of a client its connection is cut.
type rule struct {
	match     func(kind byte, body []byte) bool
	forwarded bool // and answered by the server
	done      chan struct{}
}

// NewProxy listens until the test ends.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)), ln: ln, conns: map[net.Conn]bool{}, frozen: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.SlowClose(0)
		p.Hold(false)
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// URL is that of the server, by way of the proxy.
func (p *Proxy) URL(url string) string {
	return strings.Replace(url, p.target, p.ln.Addr().String(), 1)
}

// Cut breaks all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Refuse breaks all connections and those that are made until it is called with
// false.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	p.refuses = refuse
	p.mu.Unlock()
	if refuse {
		p.Cut()
	}
}

// Freeze makes the connections that there are go silent: nothing more passes,
// and neither side is told. Those that are made later work.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.frozen[c] = true
	}
}

// pass writes to one side of a connection, unless it has gone silent.
func (p *Proxy) pass(to net.Conn, frame []byte) error {
	p.mu.Lock()
	frozen := p.frozen[to]
	p.mu.Unlock()
	if frozen {
		return nil
	}
	_, err := to.Write(frame)
	return err
}

// Hold lets nothing pass and breaks nothing, as when packets are lost on the way:
// neither end hears of it. What was sent meanwhile arrives when it is called with
// false, as TCP sends it again.
func (p *Proxy) Hold(hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case hold && p.held == nil:
		p.held = make(chan struct{})
	case !hold && p.held != nil:
		close(p.held)
		p.held = nil
	}
}

// Latency delays each request and each answer by as much.
func (p *Proxy) Latency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// SlowClose tells the server of a client that has gone after that time.
func (p *Proxy) SlowClose(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.linger = d
}

// wait returns when a message may pass.
func (p *Proxy) wait(kind byte) {
	p.mu.Lock()
	held, latency := p.held, p.latency
	p.mu.Unlock()
	if latency > 0 && strings.IndexByte("\x00QSZ", kind) >= 0 { // where the other end is waited for
		<-time.After(latency)
	}
	if held != nil {
		<-held
	}
}

// end closes the way to the server, once it is time.
func (p *Proxy) end(server net.Conn) {
	p.wait(0)
	p.mu.Lock()
	linger := p.linger
	p.mu.Unlock()
	if linger > 0 {
		<-time.After(linger)
	}
	_ = server.Close()
}

// CutBefore cuts a connection instead of passing on the next message that
// matches; the channel is closed when that was done.
func (p *Proxy) CutBefore(match func(kind byte, body []byte) bool) <-chan struct{} {
	return p.arm(&rule{match: match})
}

// CutAnswer passes that message on, waits until the server has answered it, and
// cuts the connection instead of passing on the answer.
func (p *Proxy) CutAnswer(match func(kind byte, body []byte) bool) <-chan struct{} {
	return p.arm(&rule{match: match, forwarded: true})
}

func (p *Proxy) arm(r *rule) <-chan struct{} {
	r.done = make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = r
	return r.done
}

// Commit matches the simple query that commits a transaction.
func Commit(kind byte, body []byte) bool {
	return kind == 'Q' && strings.HasSuffix(strings.TrimRight(string(body), "\x00"), "COMMIT")
}

// Sync matches the end of an extended query.
func Sync(kind byte, _ []byte) bool { return kind == 'S' }

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	if p.refusing() { // the server must not hear of it: it would start a process for each
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil || !p.track(client, server) {
		return
	}
	defer p.untrack(client, server)
	answered := make(chan *rule, 1) // the rule whose answer is awaited
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.toClient(client, server, answered)
		_ = client.Close()
	}()
	p.toServer(client, server, answered)
	<-done
}

func (p *Proxy) refusing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuses
}

func (p *Proxy) track(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.refuses {
			_ = c.Close()
			continue
		}
		p.conns[c] = true
	}
	return !p.refuses
}

func (p *Proxy) untrack(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
		delete(p.frozen, c)
	}
}

// toServer ends with the connection that it reads from.
func (p *Proxy) toServer(client, server net.Conn, answered chan<- *rule) {
	startup := true
	for {
		kind, frame, err := readFrame(client, startup)
		if err != nil {
			p.end(server)
			return
		}
		p.wait(kind)
		if r := p.matching(kind, frame); r != nil {
			if !r.forwarded {
				_, _ = client.Close(), server.Close()
				close(r.done)
				return
			}
			answered <- r
		}
		startup = false
		if err := p.pass(server, frame); err != nil {
			return
		}
	}
}

func (p *Proxy) matching(kind byte, frame []byte) *rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rule
	if r == nil || kind == 0 || !r.match(kind, frame[5:]) {
		return nil
	}
	p.rule = nil
	return r
}

func (p *Proxy) toClient(client, server net.Conn, answered <-chan *rule) {
	var r *rule
	for {
		kind, frame, err := readFrame(server, false)
		if err != nil {
			return
		}
		p.wait(kind)
		if r == nil {
			select {
			case r = <-answered:
			default:
			}
		}
		switch {
		case r != nil && kind == 'Z':
			_, _ = client.Close(), server.Close()
			close(r.done)
			return
		case r != nil:
		default:
			if err := p.pass(client, frame); err != nil {
				return
			}
		}
	}
}

// readFrame reads one message whole; the one at the start has no kind.
func readFrame(r io.Reader, startup bool) (kind byte, frame []byte, err error) {
	head := make([]byte, 5)
	if startup {
		head = head[1:]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	size := head
	if !startup {
		kind, size = head[0], head[1:]
	}
	body := make([]byte, max(int(binary.BigEndian.Uint32(size))-4, 0))
	_, err = io.ReadFull(r, body)
	return kind, append(head, body...), err
}
