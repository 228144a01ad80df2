package store

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"orchestrate/internal/queue"
)

// A claimed job leaves an entry in the index of what is due. Those of the past
// lie before the jobs that wait, and while another session holds an old
// snapshot, as a backup or a forgotten transaction does, nothing can take them
// away: each search would walk over all that was claimed since. So where there
// are many dead rows, a search begins at the earliest job that the last one met,
// and only now and then at the beginning.

const (
	// crowded is how many dead rows the table of jobs has when that begins. It
	// takes 0.3 µs to pass one.
	crowded = 5000
	// searchPerDead is how long to leave it between two whole searches for each
	// dead row: they take a twentieth of the time then, and more from 830,000 dead
	// rows on, where maxSearchPause is reached.
	searchPerDead = 6 * time.Microsecond
	// maxSearchPause bounds how late a job is found that is due before those that
	// are known: one that was given back, or whose insert was very slow.
	maxSearchPause = 5 * time.Second
	// slowInsert is how long an insert may take from its receipt to its commit and
	// still be found at once.
	slowInsert = 500 * time.Millisecond
	// countEvery is how often the dead rows are counted. The server has a figure.
	countEvery = time.Second
)

// fromBeginning is before all due times.
const fromBeginning = queue.Time(math.MinInt64)

// floors remember by route what no claimable job is due before.
type floors struct {
	mu      sync.Mutex
	at      map[string]floor
	dead    int64
	counted time.Time
}

type floor struct {
	due      queue.Time
	searched time.Time // from the beginning, last
}

// from is where to begin, and when next at the beginning.
func (f *floors) from(route string, now time.Time) (from queue.Time, next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, known := f.at[route]
	next = at.searched.Add(min(time.Duration(f.dead)*searchPerDead, maxSearchPause))
	if f.dead < crowded || !known || !now.Before(next) {
		return fromBeginning, next
	}
	return at.due.Add(-slowInsert), next
}

// learn that a search at now met nothing before due.
func (f *floors) learn(route string, from, due queue.Time, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.at[route]
	if from == fromBeginning {
		at = floor{due, now}
	}
	at.due = max(at.due, due)
	f.at[route] = at
}

// count asks the server how many rows are dead, if it was not asked lately.
func (p *Postgres) count(ctx context.Context, now time.Time) error {
	f := &p.floors
	f.mu.Lock()
	due := now.Sub(f.counted) >= countEvery
	if due {
		f.counted = now
	}
	f.mu.Unlock()
	if !due {
		return nil
	}
	dead, err := one[int64](ctx, p.reads, `SELECT coalesce(pg_stat_get_dead_tuples(to_regclass('webhook_jobs')), 0)`)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.dead = dead
	f.mu.Unlock()
	return nil
}

// Due implements queue.Store. A route where only a part was searched and nothing
// found is due when the next whole search is.
func (p *Postgres) Due(ctx context.Context, routes []string) ([]queue.Due, error) {
	now := queue.Clock()
	if p.session.pooled || len(routes) == 0 {
		return p.shared.Due(ctx, routes)
	}
	if err := p.count(ctx, now); err != nil {
		return nil, classify(err)
	}
	froms, nexts := map[string]queue.Time{}, map[string]time.Time{}
	for _, r := range routes {
		froms[r], nexts[r] = p.floors.from(r, now)
	}
	due, err := p.due(ctx, routes, froms)
	if err != nil {
		return nil, err
	}
	present := p.Now()
	for _, r := range routes {
		i := slices.IndexFunc(due, func(d queue.Due) bool { return d.Route == r })
		if i < 0 {
			due, i = append(due, queue.Due{Route: r}), len(due)
		}
		met := present
		if due[i].Due != 0 {
			met = min(met, due[i].Due)
		}
		p.floors.learn(r, froms[r], met, now)
		due[i].Partly = froms[r] != fromBeginning
		if search := present.Add(nexts[r].Sub(now)); due[i].Partly && (due[i].Due == 0 || due[i].Due > search) {
			due[i].Due = max(search, present+1)
		}
	}
	return slices.DeleteFunc(due, func(d queue.Due) bool { return d.Due == 0 && d.Suspect == 0 }), nil
}
