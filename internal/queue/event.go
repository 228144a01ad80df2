package queue

import (
	"fmt"
	"mime"
	"net/url"
)

// Status is where a job, or an event as the sum of its jobs, stands.
type Status string

// The states. A job is claimable when it is pending, or failed and due.
const (
	StatusPending    Status = "pending"
	StatusProcessing Status = "processing"
	StatusCompleted  Status = "completed"
	StatusFailed     Status = "failed" // the last attempt failed, the next is due at DueAt
	StatusDeadLetter Status = "dead_letter"
)

// Statuses lists every state, in the order of a job's life.
func Statuses() []Status {
	return []Status{StatusPending, StatusProcessing, StatusCompleted, StatusFailed, StatusDeadLetter}
}

// Event is a stored delivery and where it stands. The JSON keys are the names
// of the columns; JSON and columns are documented contracts.
type Event struct {
	ID              int64  `json:"id"`
	Source          string `json:"source"`
	DeliveryID      string `json:"delivery_id"`
	EventType       string `json:"event_type"`
	Action          Text   `json:"action"`
	Repository      Text   `json:"repository"`
	Sender          Text   `json:"sender"`
	Ref             Text   `json:"ref"`
	Number          Int    `json:"number"`
	HookID          Int    `json:"hook_id"`
	Status          Status `json:"status"`
	NPending        int    `json:"n_pending"`
	NProcessing     int    `json:"n_processing"`
	NFailed         int    `json:"n_failed"`
	NDead           int    `json:"n_dead"`
	RetryCount      int    `json:"retry_count"`
	MaxRetries      int    `json:"max_retries"`
	ErrorMessage    Text   `json:"error_message"`
	NextRetryAt     Time   `json:"next_retry_at"`
	ReceivedAt      Time   `json:"received_at"`
	ProcessedAt     Time   `json:"processed_at"`
	CreatedAt       Time   `json:"created_at"`
	UpdatedAt       Time   `json:"updated_at"`
	RequeuedAt      Time   `json:"requeued_at"`
	PurgedAt        Time   `json:"purged_at"`
	DuplicateCount  int    `json:"duplicate_count"`
	LastDuplicateAt Time   `json:"last_duplicate_at"`
	ConflictCount   int    `json:"conflict_count"`
	BodySize        int64  `json:"body_size"`
	BodySHA256      string `json:"body_sha256"` // lower-case hex

	// Routes are those that the event has a job for, in order of name. A store
	// fills it in lists and in single events.
	Routes []string `json:"routes"`
}

// Kind is the event's type with its action, as routes and tables name it.
func (e *Event) Kind() string {
	if e.Action == "" {
		return e.EventType
	}
	return e.EventType + "." + string(e.Action)
}

// Payload is what was signed, byte for byte, and the headers worth keeping.
type Payload struct {
	Headers map[string]string // canonical names; no Authorization, Cookie or signature
	Body    []byte
}

// ContentType is the media type of Body, lower-case and without parameters.
func (p *Payload) ContentType() string {
	t, _, err := mime.ParseMediaType(p.Headers["Content-Type"])
	if err != nil {
		return ""
	}
	return t
}

// FormContentType is how GitHub sends hooks that were made without a content
// type: the JSON in a form field named payload.
const FormContentType = "application/x-www-form-urlencoded"

// JSON is the payload as JSON: Body itself, or what the form in it holds.
func (p *Payload) JSON() ([]byte, error) {
	if p.ContentType() != FormContentType {
		return p.Body, nil
	}
	form, err := url.ParseQuery(string(p.Body))
	if err != nil {
		return nil, fmt.Errorf("form body: %w", err)
	}
	if len(form["payload"]) != 1 {
		return nil, fmt.Errorf("form body: %d fields named payload, want 1", len(form["payload"]))
	}
	return []byte(form.Get("payload")), nil
}

// MaxValues bounds the values of a payload that rules and templates look into.
// GitHub has one in 35 bytes, which makes 0.75 million of the largest delivery; a
// sender who has them in two would have each look take a gigabyte.
const MaxValues = 1 << 20

// Shape counts the values of a JSON document, and how deep they are nested; an
// object without members is 1 deep. What is no JSON yields nonsense, but no panic.
func Shape(doc []byte) (values, depth int) {
	values, level, last := 1, 0, byte(0)
	for i := 0; i < len(doc); i++ {
		switch doc[i] {
		case ' ', '\t', '\r', '\n':
			continue
		case '"':
			for i++; i < len(doc) && doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
			last = '"'
			continue
		case '{', '[':
			values++
			level++
			depth = max(depth, level)
		case ',':
			values++
		case '}', ']':
			level--
			if last == '{' || last == '[' {
				values-- // it is empty
			}
		}
		last = doc[i]
	}
	return values, depth
}

// JobKey names a job: one event, one route.
type JobKey struct {
	EventID int64  `json:"event_id"`
	Route   string `json:"route"`
}

// Claim names one claim of a job. Seq only grows, so that a late result of an
// older claim can be told from that of the present one.
type Claim struct {
	JobKey
	Seq      int64 `json:"claim_seq"`
	WorkerID Text  `json:"worker_id"`
}

// Job is one event times one route.
type Job struct {
	Claim                   // WorkerID: the last worker that claimed it
	Status           Status `json:"status"`
	RetryCount       int    `json:"retry_count"`
	MaxRetries       int    `json:"max_retries"`
	ErrorMessage     Text   `json:"error_message"`
	DueAt            Time   `json:"due_at"`
	CrashCount       int    `json:"crash_count"`
	UnavailableSince Time   `json:"unavailable_since"`
	MatchPending     bool   `json:"match_pending"` // the route's condition has still to be evaluated
	StartedAt        Time   `json:"started_at"`    // of the last attempt
	FinishedAt       Time   `json:"finished_at"`
}

// Ending is how an attempt ended.
type Ending string

// The endings. Stopped, lost and crashed spend no retry.
const (
	EndCompleted   Ending = "completed"
	EndSkipped     Ending = "skipped"     // the route turned out not to want the event
	EndFailed      Ending = "failed"      // a retry follows
	EndUnavailable Ending = "unavailable" // what the handler needs is away; a retry follows
	EndDeadLetter  Ending = "dead_letter"
	EndStopped     Ending = "stopped"   // the worker was told to stop
	EndLost        Ending = "lost"      // the claim's result or the worker's lease was lost
	EndCrashed     Ending = "crashed"   // the worker died
	EndCancelled   Ending = "cancelled" // an operator cancelled the job
)

// Result is what a handler leaves behind, whatever the outcome.
type Result struct {
	ExitCode   *int
	HTTPStatus Int
	Output     []byte // at most MaxOutput bytes
}

// MaxOutput bounds what is kept of a handler's output, in bytes.
const MaxOutput = 64 << 10

// Attempt is the history of one claim.
type Attempt struct {
	Claim
	Ending       Ending `json:"outcome"`
	StartedAt    Time   `json:"started_at"`
	FinishedAt   Time   `json:"finished_at"`
	ExitCode     *int   `json:"exit_code"`
	HTTPStatus   Int    `json:"http_status"`
	ErrorMessage Text   `json:"error_message"`
	Output       Text   `json:"output"`
	Version      Text   `json:"version"`
	ConfigHash   Text   `json:"config_hash"`
}

// Worker is a process that claims jobs. Beat grows with every heartbeat; others
// compare it, never the times, so leases need no common clock.
type Worker struct {
	ID          Text     `json:"id"`
	Host        string   `json:"host"`
	PID         int      `json:"pid"`
	Version     string   `json:"version"`
	Routes      []string `json:"routes"`
	Slots       int      `json:"slots"` // 0: it only receives
	StartedAt   Time     `json:"started_at"`
	Beat        int64    `json:"beat"`
	HeartbeatAt Time     `json:"heartbeat_at"`
	Silent      bool     `json:"silent"`      // by the clocks its lease is over: it may be dead
	ConfigHash  Text     `json:"config_hash"` // of the configuration that it follows
	Reloads
}
