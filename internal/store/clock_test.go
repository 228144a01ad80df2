package store

import (
	"testing"
	"time"

	"orchestrate/internal/queue"
)

// TestServerClock: times are the server's, whatever is thought of them here.
func TestServerClock(t *testing.T) {
	t.Parallel()
	p := openServer(t, "")
	wrong := &clockReading{at: queue.Clock(), server: queue.Clock().Add(time.Hour)}
	p.server.last.Store(wrong)
	if got := p.Now().Sub(queue.Now()); got < 59*time.Minute || got > 61*time.Minute {
		t.Errorf("an hour ahead by the last reading, and Now is ahead by %s", got)
	}
	r := must1(p.Insert(t.Context(), deliveryOf("d", "{}", "r")))
	if e := must1(p.Event(t.Context(), r.EventID)); e.CreatedAt.Sub(queue.Now()) < 59*time.Minute {
		t.Errorf("created_at = %s, want it by the server's clock: %s", e.CreatedAt, p.Now())
	}
	if err := p.readClock(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := must1(one[int64](t.Context(), p.reads, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"))
	if got := p.Now().Sub(queue.Time(server)).Abs(); got > 5*time.Second {
		t.Errorf("after a reading Now is off by %s", got)
	}
}
