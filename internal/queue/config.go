package queue

import (
	"cmp"
	"context"
	"math"
	"time"
)

// Config is what an operator decided, as one immutable value: Receive and each
// claim take it once and use nothing else. Reload replaces it.
type Config struct {
	Routes      []Route
	Matcher     Matcher // of all the routes
	RequeueDead bool    // a redelivery requeues the dead jobs of its event
	Sizes       Sizes
	Hash        string // names this configuration in the history of attempts
}

// Sizes are how much a worker does at once. Zero values take the defaults.
type Sizes struct {
	Concurrency  int           // slots: handlers at once; 5
	BatchSize    int           // jobs a claim takes at most; 10
	PollInterval time.Duration // how long to sleep when nothing tells of work; 5 s
	DrainTimeout time.Duration // how long running handlers may go on after a stop; 30 s
}

func (s Sizes) orDefaults() Sizes {
	return Sizes{
		Concurrency:  cmp.Or(max(s.Concurrency, 0), 5),
		BatchSize:    cmp.Or(max(s.BatchSize, 0), 10),
		PollInterval: cmp.Or(max(s.PollInterval, 0), 5*time.Second),
		DrainTimeout: cmp.Or(max(s.DrainTimeout, 0), 30*time.Second),
	}
}

// Route finds a route by name; nil if there is none.
func (c *Config) Route(name string) *Route {
	for i := range c.Routes {
		if c.Routes[i].Name == name {
			return &c.Routes[i]
		}
	}
	return nil
}

// RouteNames lists the routes in the order of the configuration.
func (c *Config) RouteNames() []string {
	names := make([]string, len(c.Routes))
	for i := range c.Routes {
		names[i] = c.Routes[i].Name
	}
	return names
}

// Route says which events start which handler.
type Route struct {
	Name        string
	Handler     Handler
	Concurrency int // how many at once in one worker; 0: as many as it has slots
	Retry       Retry
}

// Matcher decides which routes an event starts. It does not panic. Safe for
// concurrent use.
type Matcher interface {
	// Match returns, in the order of the configuration, the routes that want the
	// event, and those of which it can't be told, with why. The event is never
	// lost by that: such a route gets a dead-lettered job, which is evaluated
	// again when it is replayed.
	Match(e *Event, p *Payload) []Match
	// Wants asks one route. An error means that it can't be told.
	Wants(route string, e *Event, p *Payload) (bool, error)
}

// Match is a route that an event starts; or may start, if Err is set.
type Match struct {
	Route string
	Err   error
}

// Handler does what a route asks for. The error is the outcome: nil is done, a
// PermanentError goes to the dead letters, an UnavailableError waits on the
// longer schedule, ErrStopped is no failure, any other error is retried. The
// Result counts whatever the error. When ctx ends, Handle returns soon, with
// context.Cause(ctx), and leaves nothing running. Safe for concurrent use.
type Handler interface {
	Handle(ctx context.Context, t *Task) (Result, error)
}

// Task is what a handler gets. It must not change what it points to.
type Task struct {
	Event   *Event
	Payload *Payload
	Route   string
	Attempt int64  // 1 for the first claim of this job, growing with each
	Key     string // idempotency key: the same on every attempt and replay
}

// NewTask is what a handler gets for an attempt.
func NewTask(e *Event, p *Payload, route string, attempt int64) *Task {
	return &Task{Event: e, Payload: p, Route: route, Attempt: attempt, Key: e.Source + "/" + e.DeliveryID + "/" + route}
}

// Retry is what follows a failure.
type Retry struct {
	Max int // retries after the first attempt; copied into a job at receipt
	Backoff
	Unavailable Unavailable
}

// Backoff is a growing wait.
type Backoff struct {
	Base   time.Duration // before the first retry
	Factor float64       // times this with each further one
	Cap    time.Duration // never longer than this
	Jitter float64       // up to this fraction is added, never taken off
}

// Unavailable is the schedule for failures that are not the event's fault.
type Unavailable struct {
	Backoff
	For time.Duration // since the streak began; 0 makes it an ordinary error
}

// MaxRetryAfter bounds what another side may ask us to wait.
const MaxRetryAfter = time.Hour

// DefaultRetry is four attempts over seven seconds for errors, and a day for
// what is away.
func DefaultRetry() Retry {
	return Retry{
		Max:     3,
		Backoff: Backoff{Base: time.Second, Factor: 2, Cap: time.Hour},
		Unavailable: Unavailable{
			Backoff: Backoff{Base: 5 * time.Second, Factor: 2, Cap: 5 * time.Minute},
			For:     24 * time.Hour,
		},
	}
}

// wait is how long the n-th retry (from 1) waits; dice in [0,1) picks the
// jitter.
func (b Backoff) wait(n int, dice float64) time.Duration {
	return b.bounded(float64(b.Base)*math.Pow(b.Factor, float64(n-1)), dice)
}

// waitInStreak is the wait at a time into a streak of failures. A geometric
// schedule has waited base*(factor^n - 1)/(factor - 1) before its n-th wait of
// base*factor^n, so the elapsed time alone tells the next wait and no count
// has to be kept.
func (b Backoff) waitInStreak(elapsed time.Duration, dice float64) time.Duration {
	return b.bounded(float64(b.Base)+float64(max(elapsed, 0))*(b.Factor-1), dice)
}

func (b Backoff) bounded(d, dice float64) time.Duration {
	if b.Cap > 0 {
		d = min(d, float64(b.Cap))
	}
	return time.Duration(min(d*(1+b.Jitter*dice), math.MaxInt64/2))
}
