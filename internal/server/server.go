// Package server speaks HTTP: the intake that deliveries are posted to, and the
// admin listener that tells whether this process lives and is ready.
//
// The intake trusts nobody until a signature fits. What strangers can make it
// hold is counted in bytes, and a request is charged only for the bytes that
// arrived, not for those it announced: otherwise ten connections that announce
// 25 MB each and send nothing would shut out everybody. Places in the store,
// in turn, are given only to what is verified. Rejected: a plain bound of
// requests in flight at the door, which as many slow strangers fill for good.
package server

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"orchestrate/internal/queue"
)

// Receiver keeps what was delivered. When it returns nil the delivery is on
// disk. It returns soon after ctx has ended, and may use the payload longer.
// Safe for concurrent use.
type Receiver interface {
	// Now is the time by the receiver's clock.
	Now() queue.Time
	Receive(ctx context.Context, e *queue.Event, p *queue.Payload) (queue.Receipt, error)
}

// Source is a path that deliveries come in by.
type Source struct {
	Name     string
	Path     string
	Secrets  [][]byte // any of them may have signed
	Insecure bool     // nothing is verified
}

// Options say what to serve.
type Options struct {
	Receiver Receiver
	Sources  []Source
	Ready    func() error // why this process is not ready; asked by each request of /readyz
	Admin    string       // the host that the admin listener was asked to listen on; requests may name it
	Log      *slog.Logger
	Limits   Limits
}

// Limits bound what one request and all of them may take. A zero takes the
// value of DefaultLimits.
type Limits struct {
	Answer  time.Duration // from a delivery's header to its answer
	Body    time.Duration // from a delivery's header to the end of its body; not over Answer
	Header  time.Duration // for a request's header
	Idle    time.Duration // between two requests of a connection
	Drain   time.Duration // for the requests that are open when serving ends
	Log     int           // lines a minute about refusals, for each HTTP status
	Headers int           // bytes of a request's header
	Size    int64         // bytes of a delivery's body
	Memory  int64         // bytes of all bodies at a time, and requestCost for each
	Stores  int           // deliveries that are being stored at a time
	Conns   int           // connections of a listener; at most a quarter of the descriptors that the process may have: there are two
}

// DefaultLimits keep GitHub's 10 seconds (docs.github.com, "Handling failed
// webhook deliveries") and its 25 MB (docs.github.com, "Webhook events and
// payloads"), with 64 KiB to spare.
func DefaultLimits() Limits {
	return Limits{
		Answer:  8 * time.Second,
		Body:    7 * time.Second,
		Header:  5 * time.Second,
		Idle:    time.Minute,
		Drain:   10 * time.Second,
		Log:     10,
		Headers: 16 << 10,
		Size:    26_214_400 + 65_536,
		Memory:  256 << 20,
		Stores:  256,
		Conns:   4096,
	}
}

func (l Limits) orDefaults() Limits {
	d := DefaultLimits()
	return Limits{
		Answer:  cmp.Or(l.Answer, d.Answer),
		Body:    cmp.Or(l.Body, d.Body),
		Header:  cmp.Or(l.Header, d.Header),
		Idle:    cmp.Or(l.Idle, d.Idle),
		Drain:   cmp.Or(l.Drain, d.Drain),
		Log:     cmp.Or(l.Log, d.Log),
		Headers: cmp.Or(l.Headers, d.Headers),
		Size:    cmp.Or(l.Size, d.Size),
		Memory:  cmp.Or(l.Memory, d.Memory),
		Stores:  cmp.Or(l.Stores, d.Stores),
		Conns:   min(cmp.Or(l.Conns, d.Conns), descriptors()/4),
	}
}

func (l Limits) validate() error {
	if min(l.Answer, l.Body, l.Header, l.Idle, l.Drain) < 0 || min(int64(l.Log), int64(l.Headers), l.Size, l.Memory, int64(l.Stores), int64(l.Conns)) < 0 {
		return fmt.Errorf("%w limits %+v: none may be negative", queue.ErrInvalid, l)
	}
	if l.Body > l.Answer {
		return fmt.Errorf("%w limits: %s for a body leave nothing of the %s for the answer", queue.ErrInvalid, l.Body, l.Answer)
	}
	return nil
}

// Server serves the intake and the admin listener.
type Server struct {
	receiver Receiver
	sources  atomic.Pointer[map[string]Source] // by path
	ready    readiness
	log      *slog.Logger
	limits   Limits
	memory   memory
	adminAs  string
	stores   chan struct{} // a place for each delivery that is being stored
	refusals refusals
}

// New returns a server for the sources. ErrInvalid names what can't be served;
// a source without a secret is an error unless it is insecure.
func New(o Options) (*Server, error) {
	l := o.Limits.orDefaults()
	if err := l.validate(); err != nil {
		return nil, err
	}
	if o.Receiver == nil || o.Ready == nil || o.Log == nil {
		return nil, fmt.Errorf("%w server options: Receiver, Ready and Log must be given", queue.ErrInvalid)
	}
	s := &Server{
		receiver: o.Receiver, log: o.Log, limits: l, adminAs: o.Admin,
		ready:    readiness{ask: o.Ready, log: o.Log},
		stores:   make(chan struct{}, l.Stores),
		refusals: refusals{log: o.Log, lines: l.Log},
	}
	s.memory.free.Store(l.Memory)
	use, err := s.Sources(o.Sources)
	if err != nil {
		return nil, err
	}
	use()
	return s, nil
}

// Sources checks other sources; use replaces the present ones by them, also for
// deliveries whose body has not come to its end. The error is ErrInvalid.
func (s *Server) Sources(sources []Source) (use func(), err error) {
	if len(sources) == 0 {
		return nil, fmt.Errorf("%w sources: at least one must be given", queue.ErrInvalid)
	}
	byPath := make(map[string]Source, len(sources))
	for _, src := range sources {
		if err := src.validate(); err != nil {
			return nil, err
		}
		if other, taken := byPath[src.Path]; taken {
			return nil, fmt.Errorf("%w source %s: path %s is that of source %s", queue.ErrInvalid, src.Name, src.Path, other.Name)
		}
		byPath[src.Path] = src
	}
	return func() { s.sources.Store(&byPath) }, nil
}

func (s Source) validate() error {
	if !strings.HasPrefix(s.Path, "/") {
		return fmt.Errorf("%w source %s: path %q does not begin with a slash", queue.ErrInvalid, s.Name, s.Path)
	}
	if len(s.Secrets) == 0 && !s.Insecure {
		return fmt.Errorf("%w source %s: it has no secret, so anybody could deliver", queue.ErrInvalid, s.Name)
	}
	for _, secret := range s.Secrets {
		if len(secret) == 0 {
			return fmt.Errorf("%w source %s: a secret is empty, so anybody could deliver", queue.ErrInvalid, s.Name)
		}
	}
	return nil
}

// ServeIntake answers deliveries on the listener until ctx ends; then it takes
// no more connections, lets the open requests finish, within Limits.Drain, and
// returns nil. An error says why it ended earlier. The receiver is in use until
// it returns.
func (s *Server) ServeIntake(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, s.intake, s.refusals.flush)
}

// ServeAdmin answers /livez and /readyz, like ServeIntake. It is apart, so that
// readiness can be told while the intake drains.
func (s *Server) ServeAdmin(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, s.admin, func() {})
}

func (s *Server) serve(ctx context.Context, ln net.Listener, h http.HandlerFunc, everyMinute func()) error {
	conns := &connections{max: s.limits.Conns, dropped: s.dropped, place: map[net.Conn]*list.Element{}}
	srv := s.httpServer(h, conns)
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed = srv.Serve(ln)
	}()
	waitTicking(ctx, done, everyMinute)
	s.drain(ctx, srv)
	<-done
	conns.open.Wait()
	everyMinute()
	if !errors.Is(failed, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", ln.Addr(), failed)
	}
	return nil
}

func (s *Server) httpServer(h http.HandlerFunc, conns *connections) *http.Server {
	return &http.Server{
		Handler:                      s.guard(h),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            s.limits.Header,
		ReadTimeout:                  s.limits.Body,                   // of a body that no handler reads; one that is read gets a deadline of its own
		WriteTimeout:                 s.limits.Answer + 2*time.Second, // for an answer that was ready at the last moment
		IdleTimeout:                  s.limits.Idle,
		MaxHeaderBytes:               s.limits.Headers,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnState:                    conns.changed,
		ConnContext:                  conns.context,
	}
}

// dropped logs, within the bounds of refusals, whom a bound of connections hit.
func (s *Server) dropped(c net.Conn) {
	s.refusals.add(context.Background(), slog.LevelWarn, http.StatusRequestTimeout, []any{
		"remote", c.RemoteAddr().String(), "reason", fmt.Sprintf("%d connections are open; this one had waited longest for its sender, and was closed without an answer", s.limits.Conns),
	})
}

func waitTicking(ctx context.Context, done <-chan struct{}, everyMinute func()) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-done:
			return
		case <-tick.C:
			everyMinute()
		}
	}
}

// drain lets open requests finish. Those that don't in time are cut off; their
// handlers end by the deadlines they have.
func (s *Server) drain(ctx context.Context, srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Drain)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		s.log.WarnContext(ctx, "requests cut off at the end of serving", "after", s.limits.Drain, "error", errors.Join(err, srv.Close()))
	}
}

// guard recovers panics, which must not reach net/http: it logs them as text.
func (s *Server) guard(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				s.log.ErrorContext(r.Context(), "request panicked", "path", queue.Clean(r.URL.Path), "remote", r.RemoteAddr,
					"panic", queue.Clean(fmt.Sprint(v)), "stack", string(debug.Stack()))
				answerError(w, http.StatusInternalServerError)
			}
		}()
		h(w, r)
	})
}
