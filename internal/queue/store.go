package queue

import (
	"context"
	"time"
)

// Store keeps events. Every method is safe for concurrent use, by any number of
// processes on one database. A method that writes is one transaction: when it
// returns nil the change is on disk, when it returns an error nothing of it is
// visible, except where the connection was lost in between. Errors that say the
// database can't be used now are ErrUnavailable, ErrBusy or ErrBroken.
type Store interface {
	// Now is the clock that all processes of this store go by: what is stored
	// and what is due is told by it.
	Now() Time

	// Insert stores an event with its payload and jobs, or counts a duplicate
	// or a conflict of the one that is there. The event's id is not read. It
	// may run twice; the second run is a duplicate.
	Insert(ctx context.Context, in Insertion) (Receipt, error)

	// Due tells, for each of the routes that has claimable jobs, when the
	// earliest is due.
	Due(ctx context.Context, routes []string) ([]Due, error)
	// Claim takes due jobs for a live worker, earliest first, each for one
	// claimer only. It returns none when the worker's row is gone.
	Claim(ctx context.Context, p ClaimParams) ([]Job, error)
	// Restamp changes when jobs are due that were stamped by a clock which has been
	// set since, and returns how many. A job is changed once, however often it is
	// asked for and by whomever.
	Restamp(ctx context.Context, p Restamp) (int, error)
	// Settle ends a claim: job, attempt and counters together. ErrStale, and no
	// change, when the claim is not the job's present one.
	Settle(ctx context.Context, c Claim, s Settlement) error
	// Load returns an event, without its routes, and its payload. ErrNotFound
	// when either is gone.
	Load(ctx context.Context, eventID int64) (*Event, *Payload, error)

	// Register adds a worker. The row of an earlier life of the same process,
	// if named, goes with it, and its jobs are pending again.
	Register(ctx context.Context, w Worker, earlier Text) error
	// Heartbeat raises the worker's beat and returns the jobs that the store
	// holds as claimed by it. What may change while a worker lives, its routes,
	// slots, configuration and reloads, is kept, too. ErrLeaseLost when its row
	// is gone.
	Heartbeat(ctx context.Context, w Worker) ([]Job, error)
	// Unregister removes a worker that has nothing left running; what the store
	// still holds for it, a claim whose result was lost, is pending again.
	Unregister(ctx context.Context, workerID Text, now Time) error
	// Workers lists the live workers and those not yet found dead, by id.
	Workers(ctx context.Context) ([]Worker, error)
	// Rescue removes those workers whose beat is still the one given, and
	// settles every processing job that no worker row stands for. It returns
	// what it settled.
	Rescue(ctx context.Context, dead map[Text]int64, now Time) ([]Rescued, error)

	// Event returns one event with its routes, purged or not. ErrNotFound.
	Event(ctx context.Context, id int64) (*Event, error)
	// FindDelivery returns the ids of at most two events whose delivery id
	// starts with the prefix; only the exact ones, if there are any.
	FindDelivery(ctx context.Context, prefix string) ([]int64, error)
	Payload(ctx context.Context, eventID int64) (*Payload, error)
	Jobs(ctx context.Context, eventID int64) ([]Job, error)
	Attempts(ctx context.Context, eventID int64) ([]Attempt, error)

	// List returns events that match, newest first, purged ones never.
	List(ctx context.Context, f Filter, limit int) ([]Event, error)
	// Select returns jobs in one of the states, of events that match, in order
	// of their keys, after the key given.
	Select(ctx context.Context, f Filter, from []Status, after JobKey, limit int) ([]Job, error)
	// Move changes those of the jobs that are still as they were selected.
	Move(ctx context.Context, jobs []Job, m Move) (int, error)
	// AddJob gives an event a job that it did not have. ErrRefused when it has
	// one or is purged; ErrNotFound.
	AddJob(ctx context.Context, j Job, now Time) error
	// Clean deletes or purges a chunk of events, in order of id.
	Clean(ctx context.Context, p CleanParams) (Cleaned, error)
	// Size is what the database takes on disk, in bytes; Shrink gives unused
	// space back.
	Size(ctx context.Context) (int64, error)
	Shrink(ctx context.Context) error
	// Check looks for damage, at most daily and for a minute. ErrDamaged, with what
	// can be done, where the structure is; of bodies it tells the events.
	Check(ctx context.Context) (Checked, error)

	// Waiting counts the claimable jobs by route, due or not, from an index.
	Waiting(ctx context.Context) (map[string]int64, error)
	// Stats counts jobs by route and state. The open and the dead ones come from
	// indexes; for the completed ones and the events it reads every row.
	Stats(ctx context.Context) (Stats, error)
	// Watch calls changed whenever another process may have written, until ctx
	// ends. It is a hint; polling stays the truth.
	Watch(ctx context.Context, changed func()) error
	// CheckSchema returns ErrSchema when the database is not at the version
	// that this program was built for.
	CheckSchema(ctx context.Context) error
	// CheckWrites tries a write after one has failed, as on a full disk, and
	// returns its error; nil while none has failed.
	CheckWrites(ctx context.Context) error
	// Broken is closed when nothing can go on: the disk failed to sync, or the file
	// was found damaged. WhyBroken tells, as ErrBroken or ErrDamaged.
	Broken() <-chan struct{}
	WhyBroken() error
	Close() error
}

// Insertion is what Receive asks a store to keep.
type Insertion struct {
	Event   *Event
	Payload *Payload
	Jobs    []Job // one a route; pending, or dead_letter with MatchPending
	// RequeueDead: a duplicate requeues the dead jobs of its event, but not
	// within RedeliveryPause of the last requeue.
	RequeueDead bool
}

// RedeliveryPause is how long after a requeue of an event a redelivery does not
// requeue it again.
const RedeliveryPause = time.Minute

// Receipt is what became of a delivery.
type Receipt struct {
	EventID    int64    `json:"event_id"`
	DeliveryID string   `json:"delivery_id"`
	Duplicate  bool     `json:"duplicate"`
	Routes     []string `json:"routes"` // the jobs that this delivery started or requeued
	Conflict   bool     `json:"-"`      // the delivery id is taken by another body
	Limited    bool     `json:"-"`      // dead jobs were not requeued: too soon after the last time
}

// Due is when the earliest claimable job of a route is due. Suspects, which a
// worker runs one at a time, are told apart.
type Due struct {
	Route   string
	Due     Time // 0: none
	Suspect Time // 0: none
	// Partly: not all was searched. Due may be when to ask again.
	Partly bool
}

// ClaimParams says which jobs to claim, for whom.
type ClaimParams struct {
	Route string
	Now   Time
	DueBy Time // jobs due after this are left alone
	// Clock, if not nil, is asked while nobody else writes, where the store can:
	// what is due after that, too, is left alone.
	Clock    func() Time
	Limit    int
	WorkerID Text
	Suspects bool // claim jobs with a crash count, instead of those without
}

// Restamp says which jobs of a route have a wrong due time, all of them due
// after After. With By: the retries due before Before that failed by After, which
// are due later by that. Without: what was received or failed after After, which
// is the future; it is due Now, a retry after the whole of its wait. When they
// failed and when their outage began is set with it. Now is the time of the change
// in either case.
type Restamp struct {
	Route              string
	After, Before, Now Time
	By                 time.Duration
	Limit              int
}

// Rescued is a job that was taken from a dead worker.
type Rescued struct {
	Claim
	Settlement
}

// Filter chooses events. An empty field chooses all.
type Filter struct {
	IDs        []int64
	Status     Status // of the event
	EventType  string
	Action     string
	Repository string // compared without case, as GitHub does
	Sender     string // likewise
	Route      string // the event has a job for it; for verbs: that job
	Delivery   string // a prefix
	Source     string
	Since      Time  // received at or after
	Until      Time  // received before
	Before     int64 // ids below this one: where the last page ended
}

// IsZero tells whether the filter chooses every event.
func (f Filter) IsZero() bool {
	return f.IDs == nil && f.Status == "" && f.EventType == "" && f.Action == "" && f.Repository == "" &&
		f.Sender == "" && f.Route == "" && f.Delivery == "" && f.Source == "" && f.Since == 0 && f.Until == 0 && f.Before == 0
}

// Move says where selected jobs go: to pending, due now, with their counts at
// nothing; or to dead_letter, with the reason.
type Move struct {
	To     Status
	Reason string // who and why, for dead_letter
	Now    Time
}

// CleanParams says what a cleanup may take.
type CleanParams struct {
	Before      Time // received before this
	Forget      Time // received before this: the row goes; later: it stays, purged
	IncludeDead bool
	DryRun      bool
	After       int64 // ids above this one
	Limit       int   // how many rows to look at
}

// Cleaned is what a chunk of a cleanup did.
type Cleaned struct {
	Deleted  int   // rows of events that were visible
	Purged   int   // payload and jobs gone, row kept
	Forgot   int   // rows of events that had been purged before
	Missed   int   // chosen, but moved by somebody else in between
	KeptDead int   // old enough, but dead letters
	KeptOpen int   // old enough, but not finished
	Last     int64 // the last id looked at
	Done     bool  // nothing old enough lies beyond
}

// Checked is what a check of the database came to.
type Checked struct {
	State CheckState `json:"check"`
	// DamagedPayloads are events whose body is not the one that was signed: it
	// differs from its digest.
	DamagedPayloads []int64 `json:"damaged_payloads"`
}

// CheckState tells how far a check came that found the structure whole.
type CheckState string

// What a check may come to.
const (
	CheckNone       CheckState = "none"       // of PostgreSQL: it has its own
	CheckNotDue     CheckState = "not_due"    // there was one within a day
	CheckPassed     CheckState = "passed"     //
	CheckUnfinished CheckState = "unfinished" // it would have taken longer than a minute; bodies were compared
)

// Stats counts jobs and names who works.
type Stats struct {
	Routes  []RouteStats `json:"routes"`
	Events  int64        `json:"events"`
	Workers []Worker     `json:"workers"`
	Bytes   int64        `json:"database_bytes"`
}

// RouteStats counts the jobs of one route.
type RouteStats struct {
	Route      string `json:"route"`
	Pending    int64  `json:"pending"`
	Processing int64  `json:"processing"`
	Failed     int64  `json:"failed"`
	DeadLetter int64  `json:"dead_letter"`
	Completed  int64  `json:"completed"`
	OldestDue  Time   `json:"oldest_due_at"`
}
