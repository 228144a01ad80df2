package store

import (
	"context"
	"database/sql"
	"runtime"

	"orchestrate/internal/queue"
)

// waiting is one call that shares its transaction with those that wait beside
// it.
type waiting[In, Out any] struct {
	ctx  context.Context
	in   In
	size int // bytes
	out  Out
	done chan error
}

// together waits for the answer of a group. ErrBusy when too much waits and the
// call is intake; sure is false where it may have been done although its caller
// gave up.
func together[In, Out any](ctx context.Context, p *Postgres, lane chan *waiting[In, Out], w *waiting[In, Out], intake bool) (sure bool, err error) {
	p.begin()
	w.ctx, w.done = ctx, make(chan error, 1)
	select {
	case lane <- w:
	default:
		if intake {
			return true, queue.ErrBusy
		}
		select {
		case lane <- w:
		case <-ctx.Done():
			return true, waited(ctx)
		case <-p.stop:
			return true, classify(sql.ErrConnDone)
		}
	}
	select {
	case err := <-w.done:
		return true, err
	case <-ctx.Done():
		return false, waited(ctx)
	case <-p.stopped:
		select {
		case err := <-w.done:
			return true, err
		default:
			return true, classify(sql.ErrConnDone)
		}
	}
}

// collect hands groups of what waits to do, without a timer: they form by
// themselves while an earlier one waits for the disk. No two of a group have
// one key, if there is a key.
func collect[In, Out any, K comparable](p *Postgres, lane chan *waiting[In, Out], key func(In) K, do func([]*waiting[In, Out])) {
	for {
		select {
		case w := <-lane:
			runtime.Gosched() // those that are about to call, as when a batch ends
			do(gather(lane, w, key, do))
		case <-p.stop:
			for { // what was asked for
				select {
				case w := <-lane:
					do(gather(lane, w, key, do))
				default:
					return
				}
			}
		}
	}
}

// gather leaves out whose caller has given up, and runs before the group what
// has the key of another in it.
func gather[In, Out any, K comparable](lane chan *waiting[In, Out], w *waiting[In, Out], key func(In) K, do func([]*waiting[In, Out])) []*waiting[In, Out] {
	var group []*waiting[In, Out]
	seen := map[K]bool{}
	for bytes := 0; w != nil; {
		switch {
		case w.ctx.Err() != nil:
			w.done <- waited(w.ctx)
		case key != nil && seen[key(w.in)]:
			do([]*waiting[In, Out]{w})
		default:
			if key != nil {
				seen[key(w.in)] = true
			}
			group, bytes = append(group, w), bytes+w.size
		}
		if len(group) >= maxSettled || bytes >= maxGroupBytes {
			break
		}
		select {
		case w = <-lane:
		default:
			w = nil
		}
	}
	return group
}

// begin starts what runs beside the calls.
func (p *Postgres) begin() {
	p.start.Do(func() {
		// One, so that all that end while it waits for the disk share the next.
		p.background.Go(func() { collect(p, p.settles, func(s settling) queue.JobKey { return s.JobKey }, p.settleTogether) })
		for range inserters {
			p.background.Go(func() { collect(p, p.inserts, delivery.key, p.insertTogether) })
		}
		for range loaders {
			p.background.Go(func() { collect[int64, loaded, int64](p, p.loads, nil, p.loadTogether) })
		}
		p.background.Go(p.noticeLoop)
		p.background.Go(p.minutely)
	})
}
