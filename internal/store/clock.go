package store

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"orchestrate/internal/queue"
)

const (
	// clockReadings are taken at a time; the one that was answered soonest counts.
	clockReadings = 3
	// clockEvery is how long this machine's monotonic clock is trusted: at the
	// 500 ppm that a clock may be slewed by, 30 ms.
	clockEvery = time.Minute
	// clockWarning: what differs by less is common, and of no consequence.
	clockWarning = 5 * time.Second
)

// serverClock is the clock of the database's server, which all its clients
// share, carried on from its last reading by the monotonic clock of this
// machine. What the wall clock says here does not matter.
type serverClock struct{ last atomic.Pointer[clockReading] }

type clockReading struct {
	at     time.Time // here
	server time.Time // there, at the same moment
}

func (c *serverClock) now() queue.Time {
	r := c.last.Load()
	if r == nil {
		return queue.Now()
	}
	return queue.At(r.server.Add(queue.Clock().Sub(r.at)))
}

// readClock takes the middle of a round trip for the moment of the reading, so
// that it is wrong by half a round trip at most.
func (p *Postgres) readClock(ctx context.Context) error {
	var best *clockReading
	shortest := time.Duration(1<<63 - 1)
	for range clockReadings {
		sent := queue.Clock()
		micros, err := one[int64](ctx, p.reads, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
		if err != nil {
			return err
		}
		took := queue.Clock().Sub(sent)
		if took < shortest {
			shortest, best = took, &clockReading{at: sent.Add(took / 2), server: time.UnixMicro(micros)}
		}
	}
	p.server.last.Store(best)
	return nil
}

// minutely reads the clock again and again: a server may be replaced by one
// with another clock. It also clears marks away.
func (p *Postgres) minutely() {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.stop:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), p.try)
		if err := errors.Join(p.readClock(ctx), p.sweepMarks(ctx)); err != nil {
			p.log.Debug("read the server's clock, clear marks away", "error", err.Error())
		}
		cancel()
	}
}
