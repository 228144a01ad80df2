package store

import (
	"testing"
	"time"

	"orchestrate/internal/queue"
)

// TestManyDeadRows: a search that begins where the last one did is late for a
// job that is due before, by no more than Due says.
func TestManyDeadRows(t *testing.T) {
	t.Parallel()
	p := openServer(t, "")
	must(t, p.Register(t.Context(), queue.Worker{ID: "w", StartedAt: 1}, ""))
	now := p.Now()
	insert := func(id string, due queue.Time) {
		in := deliveryOf(id, "{}", "a")
		in.Jobs[0].DueAt = due
		_, err := p.Insert(t.Context(), in)
		must(t, err)
	}
	claim := func() (due []queue.Time) {
		jobs, err := p.Claim(t.Context(), queue.ClaimParams{Route: "a", Now: now, DueBy: now, Limit: 10, WorkerID: "w"})
		must(t, err)
		for _, j := range jobs {
			due = append(due, j.DueAt)
		}
		return due
	}
	p.floors.dead, p.floors.counted = 1_000_000, queue.Clock().Add(time.Hour) // nobody counts again
	first := now.Add(-time.Minute)
	insert("first", first)
	if got := claim(); len(got) != 1 || got[0] != first {
		t.Fatalf("the first search found %v, want %v", got, first)
	}
	insert("slow", first.Add(-slowInsert))
	insert("early", first.Add(-time.Hour))
	if got := claim(); len(got) != 1 || got[0] != first.Add(-slowInsert) {
		t.Fatalf("found %v, want the job of the slow insert at %v", got, first.Add(-slowInsert))
	}
	due, err := p.Due(t.Context(), []string{"a", "b"})
	must(t, err)
	if len(due) != 1 || due[0].Route != "a" || due[0].Due <= now || due[0].Due > p.Now().Add(maxSearchPause) {
		t.Errorf("due %v, want the time of the next whole search, at most %v after %v", due, maxSearchPause, now)
	}
	at := p.floors.at["a"]
	at.searched = at.searched.Add(-maxSearchPause)
	p.floors.at["a"] = at
	due, err = p.Due(t.Context(), []string{"a"})
	must(t, err)
	if len(due) != 1 || due[0].Due != first.Add(-time.Hour) {
		t.Errorf("the whole search told %v, want the early job at %v", due, first.Add(-time.Hour))
	}
	if got := claim(); len(got) != 1 || got[0] != first.Add(-time.Hour) {
		t.Errorf("found %v, want the early job at %v", got, first.Add(-time.Hour))
	}
}

// TestDeadRowsAreCounted: what the server counts decides.
func TestDeadRowsAreCounted(t *testing.T) {
	t.Parallel()
	p := openServer(t, "")
	for range 3 {
		if _, err := p.db.ExecContext(t.Context(), `INSERT INTO webhook_jobs (event_id, route, status, max_retries, due_at)
			SELECT -g, 'x', 'pending', 0, 1 FROM generate_series(1, 3000) g`); err == nil {
			t.Fatal("jobs without events were stored")
		}
	}
	p.pool.Reset() // a session that ends tells what it counted
	for p.floors.dead < 9000 {
		if _, err := p.db.ExecContext(t.Context(), "SELECT pg_sleep(0.05)"); err != nil {
			t.Fatalf("%d dead rows were counted, want those of the refused inserts: 9000", p.floors.dead)
		}
		p.floors.counted = time.Time{}
		must(t, p.count(t.Context(), queue.Clock()))
	}
}
