package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Settle implements queue.Store. Those that wait together are one transaction.
func (p *Postgres) Settle(ctx context.Context, c queue.Claim, st queue.Settlement) error {
	w := &waiting[settling, bool]{in: settling{Claim: c, Settlement: st}, size: len(st.Result.Output)}
	sure, err := together(ctx, p, p.settles, w, false)
	if !sure {
		p.doubtful.add(c)
	}
	if err == nil && w.out {
		return staleError(c)
	}
	return err
}

// settleTogether answers a group. Where it fails as a whole, though the database
// is there, each is run alone, so that a bad one costs its neighbours nothing.
func (p *Postgres) settleTogether(group []*waiting[settling, bool]) {
	if len(group) == 0 {
		return
	}
	items, wakes := make([]settling, len(group)), false
	for i, w := range group {
		items[i] = w.in
		wakes = wakes || w.in.Status != queue.StatusCompleted
	}
	stale, err := p.settleGroup(items, wakes)
	if err != nil {
		for _, w := range group { // also where each is tried alone now: an earlier try may have been committed
			p.doubtful.add(w.in.Claim)
		}
	}
	if err != nil && len(group) > 1 && (isLocked(err) || !errors.Is(err, queue.ErrUnavailable)) {
		for _, w := range group {
			p.settleTogether([]*waiting[settling, bool]{w})
		}
		return
	}
	late := map[queue.Claim]bool{}
	for _, s := range stale {
		late[s.Claim] = true
	}
	for _, w := range group {
		if err == nil {
			p.doubtful.remove(w.in.Claim)
		}
		w.out = late[w.in.Claim] // it is stale
		w.done <- err
	}
}

// settleLock is how long the settles of a process wait for a row that somebody
// else has locked: for longer than the server's deadlock_timeout, 1 s by default,
// so that a deadlock is found to be one, and is run again at once.
const settleLock = 1500 * time.Millisecond

// settleTimeout outlives one try, and ends before a lease does.
const settleTimeout = 12 * time.Second

func (p *Postgres) settleGroup(items []settling, wakes bool) ([]settling, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	o := &op{ctx: ctx, recognises: always, wakes: wakes, lockTimeout: settleLock}
	if p.session.pooled { // its settings are a transaction's
		return writeKnowing(ctx, p, o, func(ctx context.Context, q querier) ([]settling, error) {
			stale, err := settle(ctx, q, items)
			if err != nil {
				return nil, err
			}
			return p.late(ctx, q, o, stale)
		})
	}
	var stale []settling
	o.statement = func(ctx context.Context, conn *pgxpool.Conn, _ int64) error {
		settled := map[queue.JobKey]bool{}
		_, err := allRows(ctx, conn, settleAtOnce, settleColumns(items), func(rows pgx.Rows, k *queue.JobKey) error {
			err := rows.Scan(&k.EventID, &k.Route)
			settled[*k] = true
			return err
		})
		stale = slices.DeleteFunc(slices.Clone(items), func(s settling) bool { return settled[s.JobKey] })
		return err
	}
	if err := p.run(o); err != nil {
		return nil, err
	}
	stale, err := p.late(ctx, p.reads, o, stale)
	return stale, classify(err)
}

// late are those of the stale ones that are not so because their settle, whose
// answer was lost, was committed.
func (p *Postgres) late(ctx context.Context, q querier, o *op, stale []settling) ([]settling, error) {
	var late []settling
	for _, s := range stale {
		ours := false
		if o.inDoubt || p.doubtful.has(s.Claim) {
			var err error
			if ours, err = wasOurs(ctx, q, s); err != nil {
				return nil, err
			}
		}
		if !ours {
			late = append(late, s)
		}
	}
	return late, nil
}

// wasOurs tells whether a settle whose answer was lost was committed: nobody
// else writes the attempt of our claim with our outcome.
func wasOurs(ctx context.Context, q querier, s settling) (bool, error) {
	n, err := one[int64](ctx, q, `SELECT count(*) FROM webhook_attempts WHERE event_id = $1 AND route = $2 AND claim_seq = $3
		AND worker_id = $4 AND outcome = $5 AND finished_at = $6`,
		s.EventID, s.Route, s.Seq, s.WorkerID, string(s.Ending), s.FinishedAt)
	if err != nil {
		return false, fmt.Errorf("look for attempt %d of event %d, route %s: %w", s.Seq, s.EventID, s.Route, err)
	}
	return n > 0, nil
}

// doubtful remembers the claims whose settle may have been committed although
// its caller was told an error. The caller asks again, or has lost its lease.
type doubtful struct {
	mu     sync.Mutex
	claims map[queue.Claim]bool
}

// maxDoubtful bounds what callers that never asked again leave behind.
const maxDoubtful = 10_000

func (d *doubtful) add(c queue.Claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.claims) >= maxDoubtful {
		clear(d.claims)
	}
	d.claims[c] = true
}

func (d *doubtful) remove(c queue.Claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.claims, c)
}

func (d *doubtful) has(c queue.Claim) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.claims[c]
}
