//go:build unix

package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orchestrate/internal/webhook"
)

// Secret signs the deliveries. It must show up nowhere.
const Secret = "chaos-secret-that-must-not-leak-5d1f"

// Delivery is a webhook as GitHub sends it.
type Delivery struct {
	ID, Event string
	Body      []byte
}

// Entry is what the sender knows of one delivery id.
type Entry struct {
	ID, Event string
	SHA256    string // of the body that was sent first
	Body      []byte
	EventID   int64
	Tries     int // with that body
	Acked     int // of them answered 200
	New       int // of those, not as a duplicate
	Conflicts int // another body, answered 409
	Others    int // tries with another body
}

// Ledger is the sender's own record, in the memory of a process that no fault
// reaches.
type Ledger struct {
	mu       sync.Mutex
	entries  map[string]*Entry
	order    []string
	statuses map[int]int
	bad      []string
}

// NewLedger returns an empty one.
func NewLedger() *Ledger {
	return &Ledger{entries: map[string]*Entry{}, statuses: map[int]int{}}
}

// Entries is a copy of everything.
func (l *Ledger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Entry, 0, len(l.order))
	for _, id := range l.order {
		all = append(all, *l.entries[id])
	}
	return all
}

// Acked is how many delivery ids were acknowledged.
func (l *Ledger) Acked() int {
	n := 0
	for _, e := range l.Entries() {
		if e.Acked > 0 {
			n++
		}
	}
	return n
}

// Statuses counts the answers by status; 0: none came.
func (l *Ledger) Statuses() map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.statuses)
}

// Bad lists what was answered wrongly.
func (l *Ledger) Bad() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.bad...)
}

// sending is written down before a try: an answer that is lost may still be a
// delivery that was stored.
func (l *Ledger) sending(d Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := digest(d.Body)
	e := l.entries[d.ID]
	if e == nil {
		e = &Entry{ID: d.ID, Event: d.Event, SHA256: sum, Body: d.Body}
		l.entries[d.ID] = e
		l.order = append(l.order, d.ID)
	}
	if sum == e.SHA256 {
		e.Tries++
	} else {
		e.Others++
	}
}

func (l *Ledger) answered(d Delivery, status int, r receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.statuses[status]++
	e := l.entries[d.ID]
	same := digest(d.Body) == e.SHA256
	switch {
	case status == http.StatusOK && !same:
		l.bad = append(l.bad, fmt.Sprintf("%s: a second body was answered 200", d.ID))
	case status == http.StatusOK:
		if e.EventID != 0 && e.EventID != r.EventID {
			l.bad = append(l.bad, fmt.Sprintf("%s was acknowledged as event %d and as event %d", d.ID, e.EventID, r.EventID))
		}
		e.EventID = r.EventID
		e.Acked++
		if !r.Duplicate {
			e.New++
		}
	case status == http.StatusConflict && same:
		l.bad = append(l.bad, fmt.Sprintf("%s: its own body was answered 409", d.ID))
	case status == http.StatusConflict:
		e.Conflicts++
	case status != 0 && status != http.StatusServiceUnavailable:
		l.bad = append(l.bad, fmt.Sprintf("%s was answered %d", d.ID, status))
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

type receipt struct {
	EventID   int64 `json:"event_id"`
	Duplicate bool  `json:"duplicate"`
}

// Sender posts deliveries and keeps the ledger.
type Sender struct {
	Ledger *Ledger
	// To is where receivers listen; they take turns.
	To     []string
	Client *http.Client

	turns atomic.Int64
}

// NewSender sends as GitHub does: it waits 10 s for an answer.
func NewSender(l *Ledger, to ...string) *Sender {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	return &Sender{Ledger: l, To: to, Client: &http.Client{Timeout: 10 * time.Second, Transport: transport}}
}

// Close ends the connections that wait for use.
func (s *Sender) Close() { s.Client.CloseIdleConnections() }

// Post sends one delivery, signed, and returns the status of the answer; 0 if
// none came.
func (s *Sender) Post(ctx context.Context, d Delivery) int {
	s.Ledger.sending(d)
	status, r := s.post(ctx, d)
	s.Ledger.answered(d, status, r)
	return status
}

func (s *Sender) post(ctx context.Context, d Delivery) (status int, r receipt) {
	to := s.To[int(s.turns.Add(1))%len(s.To)]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to+"/webhooks/github", bytes.NewReader(d.Body))
	if err != nil {
		return 0, r
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", d.Event)
	req.Header.Set("X-GitHub-Delivery", d.ID)
	req.Header.Set("X-Hub-Signature-256", webhook.Sign(d.Body, []byte(Secret)))
	res, err := s.Client.Do(req)
	if err != nil {
		return 0, r
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil || res.StatusCode == http.StatusOK && json.Unmarshal(body, &r) != nil {
		return 0, r // cut off: it may be stored or not
	}
	return res.StatusCode, r
}

// Load is how Run sends.
type Load struct {
	Seed    uint64
	Name    string // begins each delivery id: one for each run on a ledger
	Senders int
	// Burst deliveries are sent one after the other, then there is a Pause.
	Burst int
	Pause time.Duration
	// Events are sent in this mixture.
	Events []string
	// MaxBody bounds the bodies, in bytes; most are small.
	MaxBody int
}

// Run sends until ctx ends. One in ten deliveries comes again, as GitHub
// redelivers, also those whose answer was lost; one in fifty comes again with
// another body.
func (s *Sender) Run(ctx context.Context, load Load) {
	var wg sync.WaitGroup
	for n := range load.Senders {
		dice := rand.New(rand.NewPCG(load.Seed, uint64(n))) //nolint:gosec // seeded, so that a run can be repeated
		wg.Go(func() { s.send(ctx, load, dice, fmt.Sprintf("%s-%d", load.Name, n)) })
	}
	wg.Wait()
}

func (s *Sender) send(ctx context.Context, load Load, dice *rand.Rand, name string) {
	for n := 0; ctx.Err() == nil; n++ {
		d := Delivery{ID: fmt.Sprintf("%s-%d", name, n), Event: load.Events[dice.IntN(len(load.Events))]}
		d.Body = body(d.ID, dice, load.MaxBody)
		status := s.Post(ctx, d)
		if dice.IntN(10) == 0 {
			status = max(status, s.Post(ctx, d))
		}
		if dice.IntN(50) == 0 && status == http.StatusOK {
			other := d
			other.Body = append(bytes.Clone(d.Body), ' ')
			s.Post(ctx, other)
		}
		if status == 0 { // nobody is there: no busy loop
			Pause(ctx, 20*time.Millisecond)
		}
		if load.Burst > 0 && n%load.Burst == load.Burst-1 {
			Pause(ctx, load.Pause/2+time.Duration(dice.Int64N(int64(load.Pause)+1)))
		}
	}
}

// Pause waits for so long, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// body is a JSON object with text that is easily changed on its way.
func body(id string, dice *rand.Rand, most int) []byte {
	size := dice.IntN(512)
	if dice.IntN(8) == 0 {
		size = dice.IntN(max(most, 1))
	}
	return fmt.Appendf(nil, "{\"n\":%q, \"u\":\"\\u0000\\ud83d\\ude00 é\",\t\"k\":1,\"k\":2.50e0,\"pad\":%q}\n", id, strings.Repeat("x<é>", size/5))
}
