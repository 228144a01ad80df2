package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"orchestrate/internal/queue"
)

// The sides of a copy, as each of the two databases knows its own.
const (
	sideFrom = "from" // it is being copied, or has been
	sideTo   = "to"   // a copy is made into it, or was
)

// side is what a database knows of a copy that it has a part in.
type side struct {
	side  string
	id    string // the same on both sides
	other string // the database on the other side, as people may see it
	run   string // who writes into this one: a later run shuts out an earlier one
	// closed: nobody else works here. The target is until it is whole; the source
	// is from the last pass on, for good.
	closed    bool
	startedAt queue.Time
}

func readSide(ctx context.Context, q querier, name string) (*side, error) {
	sides, err := all(ctx, q, `SELECT side, copy_id, other, run_id, closed, started_at FROM webhook_copies WHERE side = $1`,
		args{name}, func(rows *sql.Rows, s *side) error {
			return rows.Scan(&s.side, &s.id, &s.other, &s.run, &s.closed, &s.startedAt)
		})
	if err != nil || len(sides) == 0 {
		return nil, err
	}
	return &sides[0], nil
}

func putSide(ctx context.Context, q querier, s side) error {
	_, err := exec(ctx, q, `INSERT INTO webhook_copies (side, copy_id, other, run_id, closed, started_at)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (side) DO UPDATE SET copy_id = excluded.copy_id, other = excluded.other, run_id = excluded.run_id,
			closed = excluded.closed, started_at = excluded.started_at`,
		s.side, s.id, s.other, s.run, bit(s.closed), s.startedAt)
	return err
}

// refuseClosed tells why nobody works on a database, if that is so.
func refuseClosed(ctx context.Context, q querier) error {
	for _, name := range []string{sideTo, sideFrom} {
		s, err := readSide(ctx, q, name)
		switch {
		case err != nil:
			return classify(err)
		case s == nil || !s.closed:
		case name == sideTo:
			return fmt.Errorf("%w: it holds an unfinished copy of %s; finish it by the same orchestrate migrate copy, or give it up: orchestrate migrate down --to 0",
				queue.ErrUnavailable, s.other)
		default:
			return fmt.Errorf("%w: its queue moves to %s; name that one with --database, or take the move back: orchestrate migrate reopen",
				queue.ErrUnavailable, s.other)
		}
	}
	return nil
}

// refuseMarked keeps a closed database from being opened by undoing the step that
// the mark is of. Undoing all takes the queue with it.
func refuseMarked(ctx context.Context, o Options) (err error) {
	o.Create = false
	d, err := openCopied(ctx, o)
	if errors.Is(err, queue.ErrSchema) { // from before there were marks, or newer, which is refused anyway
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	return refuseClosed(ctx, d.reads)
}

// fenced are the tables that nobody writes to in a closed database.
var fenced = []statement{"workers", "webhook_jobs", "webhook_attempts", "webhook_events", "webhook_payloads"}

func sqliteFence(form statement) (statements []statement) {
	for _, table := range fenced {
		for _, verb := range []statement{"insert", "update", "delete"} {
			statements = append(statements, fillIn(form, table, verb))
		}
	}
	return statements
}

func postgresFence(form statement) (statements []statement) {
	for _, table := range fenced {
		statements = append(statements, fillIn(form, table))
	}
	return statements
}

// shut closes a database: the statements of the fence wait for those who write,
// and after them all others are refused. dead are the workers that may be there;
// any other, or one that beats again, is ErrRefused.
func (s *shared) shut(ctx context.Context, mark side, dead map[queue.Text]int64, check func(context.Context, querier) error) error {
	mark.closed = true
	_, err := write(ctx, s, op{recognises: always}, func(ctx context.Context, q querier) (struct{}, error) {
		if now, err := readSide(ctx, q, mark.side); err != nil || now != nil && now.closed && now.run == mark.run {
			return struct{}{}, err // by a run of this whose commit was in doubt
		}
		if err := execAll(ctx, q, s.closing); err != nil {
			return struct{}{}, err
		}
		workers, err := readWorkers(ctx, q)
		if err != nil {
			return struct{}{}, err
		}
		if i := slices.IndexFunc(workers, func(w queue.Worker) bool { return !isDead(w, dead) }); i >= 0 {
			return struct{}{}, fmt.Errorf("%w: worker %s runs on it; stop it, then run the same command again", queue.ErrRefused, workers[i].ID)
		}
		if err := check(ctx, q); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, putSide(ctx, q, mark)
	})
	return err
}

func isDead(w queue.Worker, dead map[queue.Text]int64) bool {
	beat, known := dead[w.ID]
	return known && beat == w.Beat
}

// open lets everybody in again.
func (s *shared) open(ctx context.Context, mark side) error {
	mark.closed = false
	_, err := write(ctx, s, op{recognises: always, wakes: true}, func(ctx context.Context, q querier) (struct{}, error) {
		now, err := readSide(ctx, q, mark.side)
		switch {
		case err != nil:
			return struct{}{}, err
		case now == nil || now.id != mark.id || now.run != mark.run:
			return struct{}{}, errTakenOver
		case !now.closed: // by a run of this whose commit was in doubt
			return struct{}{}, nil
		}
		if err := execAll(ctx, q, s.opening); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, putSide(ctx, q, mark)
	})
	return err
}

// errTakenOver: of two runs that write into one target, the later one goes on.
var errTakenOver = fmt.Errorf("%w: another migrate copy writes into it now", queue.ErrRefused)

func execAll(ctx context.Context, q querier, statements []statement, a ...any) error {
	for _, s := range statements {
		if _, err := exec(ctx, q, s, a...); err != nil {
			return err
		}
	}
	return nil
}

// Moved tells where the queue of a database moves to, or has moved; "" if it
// does not.
func Moved(ctx context.Context, o Options) (to string, err error) {
	err = withFrom(ctx, o, func(_ *shared, from *side) error {
		if from != nil && from.closed {
			to = from.other
		}
		return nil
	})
	return to, err
}

// Reopen takes back that a database was closed because its queue moves to
// another. ErrRefused when it was not.
func Reopen(ctx context.Context, o Options) error {
	return withFrom(ctx, o, func(s *shared, from *side) error {
		to, err := readSide(ctx, s.reads, sideTo)
		switch {
		case err != nil:
			return classify(err)
		case to != nil && to.closed:
			return fmt.Errorf("%w: %s holds an unfinished copy of %s; finish it by the same orchestrate migrate copy, or give it up: orchestrate migrate down --to 0",
				queue.ErrRefused, Shown(o.Database), to.other)
		case from == nil || !from.closed:
			return fmt.Errorf("%w: %s is open: its queue does not move", queue.ErrRefused, Shown(o.Database))
		}
		return s.open(ctx, *from)
	})
}

func withFrom(ctx context.Context, o Options, fn func(*shared, *side) error) (err error) {
	d, err := openCopied(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, d) }()
	from, err := readSide(ctx, d.reads, sideFrom)
	if err != nil {
		return classify(err)
	}
	return fn(d.shared, from)
}
