package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"orchestrate/internal/queue"
)

// CopyOptions say what to move, and where to.
type CopyOptions struct {
	From, To Options
	// DryRun only counts; neither database is written to, nor made.
	DryRun bool
	// Progress is told what is done, and of how many rows so far, by one call at
	// a time.
	Progress func(doing string, rows int64)

	lease time.Duration // of workers that may be dead
}

// CopiedTable is a table on both sides.
type CopiedTable struct {
	Name     string `json:"table"`
	RowsFrom int64  `json:"rows_from"`
	RowsTo   int64  `json:"rows_to"`
	// Of all rows, read back from each database in the order of the key: SHA-256,
	// lower-case hex. Absent where the source was still in use.
	DigestFrom queue.Text `json:"digest_from"`
	DigestTo   queue.Text `json:"digest_to"`
}

// Equal tells whether both sides were read back, and are the same.
func (t CopiedTable) Equal() bool {
	return t.DigestFrom != "" && t.DigestFrom == t.DigestTo && t.RowsFrom == t.RowsTo
}

// Copied is what a copy did.
type Copied struct {
	Tables []CopiedTable
	// Living are workers of the source. While there are any it is only copied ahead,
	// and neither is it closed nor the target opened.
	Living []queue.Worker // those that showed it first
	Begun  bool           // the target has been closed: it is this copy's until that is whole
}

// ErrDiffers: what was read back from the two databases is not the same.
var ErrDiffers = errors.New("the copy differs from its source")

// Copy moves a queue from one database to another. While workers live on the
// source it only copies ahead. Else it closes the source for good, has the target
// catch up, reads both back, and opens the target if they are the same: at no
// time are both open once the target is.
//
// It may be broken off anywhere, and goes on when it is called again: what is
// equal on both sides is not written again. ErrRefused where the two databases
// can't be the sides of one copy.
func Copy(ctx context.Context, o CopyOptions) (done Copied, err error) {
	if o.lease == 0 {
		o.lease = queue.Lease
	}
	if o.Progress == nil {
		o.Progress = func(string, int64) {}
	}
	o.To.Create = !o.DryRun
	c := &copier{CopyOptions: o, run: rand.Text()}
	defer func() { err = joinClose(err, c.from, c.to) }()
	if err := c.connect(ctx); err != nil {
		return done, err
	}
	if err := c.admit(ctx); err != nil {
		return done, err
	}
	if o.DryRun {
		return c.count(ctx)
	}
	return c.copy(ctx)
}

type copier struct {
	CopyOptions
	from, to   *opened // to is nil for a dry run of what is not there yet
	run        string
	source     *side // nil: it was never copied
	target     *side // nil: not begun
	sourceName string
	targetName string
}

// opened is a database, whether it is closed to others or not.
type opened struct {
	*shared
	server *Postgres // nil: SQLite
	close  func() error
}

func openCopied(ctx context.Context, o Options) (*opened, error) {
	o.copying = true
	if isPostgres(o.Database) {
		p, err := openPostgres(ctx, o)
		if err != nil {
			return nil, err
		}
		return &opened{&p.shared, p, p.Close}, nil
	}
	s, err := openSQLite(ctx, o)
	if err != nil {
		return nil, err
	}
	return &opened{&s.shared, nil, s.Close}, nil
}

func joinClose(err error, all ...*opened) error {
	for _, d := range all {
		if d != nil {
			err = errors.Join(err, d.close())
		}
	}
	return err
}

func (c *copier) connect(ctx context.Context) (err error) {
	c.sourceName, c.targetName = fullName(c.From.Database), fullName(c.To.Database)
	if err := sameFile(c.From.Database, c.To.Database); err != nil {
		return err
	}
	if c.from, err = openCopied(ctx, c.From); err != nil {
		return err
	}
	c.to, err = openCopied(ctx, c.To)
	switch {
	case c.DryRun && isMissing(c.To.Database, err):
		return nil
	case err != nil:
		return err
	case c.from.server == nil || c.to.server == nil:
		return nil
	}
	same, err := sameQueue(ctx, c.from.server, c.to.server)
	if err == nil && same {
		err = errSame(c.sourceName, c.targetName)
	}
	return classify(err)
}

// fullName is read in other directories, too.
func fullName(database string) string {
	if isPostgres(database) {
		return shownURL(database)
	}
	if full, err := filepath.Abs(database); err == nil {
		return full
	}
	return database
}

// isMissing tells from the error of opening it whether there is no database yet,
// or one without our schema.
func isMissing(database string, err error) bool {
	var schema schemaError
	if isPostgres(database) || err == nil {
		return errors.As(err, &schema) && schema.got == 0
	}
	info, err := os.Stat(database)
	return errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0
}

func errSame(from, to string) error {
	return fmt.Errorf("%w: %s and %s are the same database; name another to copy to", queue.ErrInvalid, from, to)
}

func sameFile(from, to string) error {
	if isPostgres(from) || isPostgres(to) {
		return nil
	}
	a, err1 := os.Stat(from)
	b, err2 := os.Stat(to)
	if err1 == nil && err2 == nil && os.SameFile(a, b) { // what is wrong with either is told when it is opened
		return errSame(from, to)
	}
	return nil
}

// sameQueue tells whether two URLs lead to the same tables. Locks of a database
// show that it is the same, whatever its name, and behind a pooler, too.
func sameQueue(ctx context.Context, a, b *Postgres) (same bool, err error) {
	key := mathrand.Int64() //nolint:gosec // it must differ from others, not be secret
	look := func(p *Postgres, lock statement, then func(got, oid int64) error) (err error) {
		conn, err := p.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		if _, err := simple(ctx, conn, p.session.begin); err != nil {
			return err
		}
		defer func() { _, _ = simple(context.WithoutCancel(ctx), conn, "ROLLBACK") }() // or the pool closes it
		got, err := one[int64](ctx, conn, "SELECT "+lock, key)
		if err != nil {
			return err
		}
		oid, err := one[int64](ctx, conn, "SELECT coalesce(to_regclass('webhook_events')::oid::bigint, 0)")
		if err != nil {
			return err
		}
		return then(got, oid)
	}
	err = look(a, "CASE WHEN pg_try_advisory_xact_lock($1) THEN 1 ELSE 0 END", func(_, first int64) error {
		return look(b, "CASE WHEN pg_try_advisory_xact_lock($1) THEN 1 ELSE 0 END", func(got, second int64) error {
			same = got == 0 && first == second
			return nil
		})
	})
	return same, err
}

// admit refuses databases that can't be the sides of one copy. It is either a
// new one, into a target that is empty, or the one that both know of.
func (c *copier) admit(ctx context.Context) (err error) {
	var filled, left *side // what else they have a part in
	for _, want := range []struct {
		d    *opened
		name string
		side **side
	}{{c.from, sideFrom, &c.source}, {c.from, sideTo, &filled}, {c.to, sideTo, &c.target}, {c.to, sideFrom, &left}} {
		if want.d == nil {
			continue
		}
		if *want.side, err = readSide(ctx, want.d.reads, want.name); err != nil {
			return classify(err)
		}
	}
	const giveUp = "or give that up: orchestrate migrate down --to 0 --database %s"
	ours := c.source != nil && c.target != nil && c.source.id == c.target.id
	switch {
	case filled != nil && filled.closed:
		return fmt.Errorf("%w: %s is no whole queue: it holds an unfinished copy of %s; finish that, "+giveUp,
			queue.ErrRefused, c.sourceName, filled.other, c.sourceName)
	case left != nil && left.closed:
		return fmt.Errorf("%w: the queue of %s moves to %s; name another to copy to", queue.ErrRefused, c.targetName, left.other)
	case ours && !c.target.closed:
		return fmt.Errorf("%w: %s was moved to %s before, by a copy begun at %s; work on that one", queue.ErrRefused,
			c.sourceName, c.targetName, c.target.startedAt)
	case ours:
		return nil
	case c.source != nil && c.source.closed:
		return fmt.Errorf("%w: the queue of %s moves to %s; finish that, or take it back: orchestrate migrate reopen --database %s",
			queue.ErrRefused, c.sourceName, c.source.other, c.sourceName)
	case c.target != nil && c.target.closed:
		return fmt.Errorf("%w: %s holds an unfinished copy of %s, which was another or was copied elsewhere since; finish that, "+giveUp,
			queue.ErrRefused, c.targetName, c.target.other, c.targetName)
	case c.to == nil:
		return nil
	}
	c.target = nil // what it held once is gone
	return c.empty(ctx, c.to.reads)
}

func (c *copier) empty(ctx context.Context, q querier) error {
	n, err := one[int64](ctx, q, `SELECT count(*) FROM (SELECT id FROM webhook_events LIMIT 1) e`)
	if err == nil && n > 0 {
		err = fmt.Errorf("%w: %s is not empty: it has events of its own; name a new database to copy to", queue.ErrRefused, c.targetName)
	}
	return classify(err)
}

func (c *copier) count(ctx context.Context) (done Copied, err error) {
	for _, t := range copiedTables {
		n := CopiedTable{Name: string(t.name)}
		query := "SELECT count(*) FROM " + t.name
		if n.RowsFrom, err = one[int64](ctx, c.from.reads, query); err == nil && c.to != nil {
			n.RowsTo, err = one[int64](ctx, c.to.reads, query)
		}
		if err != nil {
			return done, fmt.Errorf("count %s: %w", t.name, classify(err))
		}
		done.Tables = append(done.Tables, n)
	}
	done.Living, err = readWorkers(ctx, c.from.reads)
	return done, classify(err)
}

func (c *copier) copy(ctx context.Context) (done Copied, err error) {
	closed := c.source != nil && c.source.closed
	dead := map[queue.Text]int64{}
	if !closed {
		if done.Living, dead, err = c.watch(ctx, c.from); err != nil {
			return done, err
		}
	}
	if err := c.begin(ctx); err != nil {
		return done, err
	}
	done.Begun = true
	if !closed && len(done.Living) == 0 {
		if err := c.from.shut(ctx, *c.source, dead, func(context.Context, querier) error { return nil }); err != nil {
			return done, fmt.Errorf("close %s: %w", c.sourceName, err)
		}
	}
	if done.Tables, err = c.catchUp(ctx); err != nil || len(done.Living) > 0 {
		return done, err
	}
	if c.to.server != nil { // else its plans would be guesses until autovacuum comes by
		if _, err := exec(ctx, c.to.reads, "ANALYZE webhook_events, webhook_payloads, webhook_jobs, webhook_attempts"); err != nil {
			return done, fmt.Errorf("analyze %s: %w", c.targetName, classify(err))
		}
	}
	if done.Tables, err = c.prove(ctx); err != nil {
		return done, err
	}
	return done, c.openTarget(ctx)
}

// watch tells the workers of a database that live from those that are dead, with
// the beat at which they stopped: by whether it moves within a lease of our own
// clock. One that lives ends the wait.
func (c *copier) watch(ctx context.Context, d *opened) (living []queue.Worker, dead map[queue.Text]int64, err error) {
	const look = time.Second
	tick := time.NewTicker(min(look, c.lease/4))
	defer tick.Stop()
	seen := map[queue.Text]int64{}
	for first, last := queue.Clock(), queue.Clock(); ; {
		workers, err := readWorkers(ctx, d.reads)
		if err != nil {
			return nil, nil, classify(err)
		}
		now := queue.Clock()
		if now.Sub(last) > max(5*look, c.lease/2) { // whoever could not look can't tell
			first = now
			clear(seen)
		}
		last = now
		for _, w := range workers {
			if beat, known := seen[w.ID]; known && beat != w.Beat {
				living = append(living, w)
			}
			seen[w.ID] = w.Beat
		}
		switch {
		case len(living) > 0:
			return living, nil, nil
		case len(workers) == 0 || now.Sub(first) >= c.lease:
			return nil, seen, nil
		}
		c.Progress("waiting for a sign of life from workers", int64(len(workers)))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// begin has both sides know of the copy. From here on the target is closed to
// all but the latest run.
func (c *copier) begin(ctx context.Context) error {
	if c.target != nil {
		c.source.run, c.target.run, c.source.other = c.run, c.run, c.targetName
		n, err := write(ctx, c.to, op{recognises: always}, func(ctx context.Context, q querier) (int64, error) {
			return exec(ctx, q, `UPDATE webhook_copies SET run_id = $1 WHERE side = 'to' AND copy_id = $2 AND closed = 1`, c.run, c.target.id)
		})
		if err == nil && n == 0 {
			err = errTakenOver
		}
		return err
	}
	living, dead, err := c.watch(ctx, c.to)
	switch {
	case err != nil:
		return err
	case len(living) > 0:
		return fmt.Errorf("%w: worker %s runs on %s; stop it, then run the same command again", queue.ErrRefused, living[0].ID, c.targetName)
	}
	now, id := queue.Now(), rand.Text()
	c.source = &side{side: sideFrom, id: id, other: c.targetName, run: c.run, startedAt: now}
	c.target = &side{side: sideTo, id: id, other: c.sourceName, run: c.run, startedAt: now}
	_, err = write(ctx, c.from, op{recognises: always}, func(ctx context.Context, q querier) (struct{}, error) {
		return struct{}{}, putSide(ctx, q, *c.source)
	})
	if err != nil {
		return fmt.Errorf("note the copy in %s: %w", c.sourceName, err)
	}
	if err := c.to.shut(ctx, *c.target, dead, c.empty); err != nil {
		return fmt.Errorf("close %s: %w", c.targetName, err)
	}
	return nil
}

// catchUp makes the target what the source is. What changes meanwhile may be
// missed.
func (c *copier) catchUp(ctx context.Context) ([]CopiedTable, error) {
	var tables []CopiedTable
	for _, t := range copiedTables {
		n := CopiedTable{Name: string(t.name)}
		if err := c.merge(ctx, t, &n); err != nil {
			return tables, fmt.Errorf("copy %s: %w", t.name, classify(err))
		}
		tables = append(tables, n)
	}
	return tables, nil
}

// merge walks both sides of a table in the order of the key, and writes where
// they differ.
func (c *copier) merge(ctx context.Context, t copied, n *CopiedTable) error {
	from, to := &scroll{q: c.from.reads, t: t}, &scroll{q: c.to.reads, t: t}
	a, err := from.next(ctx)
	if err != nil {
		return err
	}
	b, err := to.next(ctx)
	if err != nil {
		return err
	}
	batch := &changes{t: t, arrays: c.to.server != nil}
	for a != nil || b != nil {
		order := batch.take(a, b)
		if order <= 0 {
			if n.RowsFrom++; n.RowsFrom%copyRows == 0 {
				c.Progress("copying "+string(t.name), n.RowsFrom)
			}
			a, err = from.next(ctx)
		}
		if order >= 0 && err == nil {
			b, err = to.next(ctx)
		}
		if err == nil && batch.full() {
			err = c.flush(ctx, batch)
			batch = &changes{t: t, arrays: batch.arrays}
		}
		if err != nil {
			return err
		}
	}
	n.RowsTo = n.RowsFrom
	return c.flush(ctx, batch)
}

// take compares the next rows of both sides: it returns below 0 where only the
// source has its, above 0 where only the target has.
func (c *changes) take(a, b row) (order int) {
	switch {
	case b == nil:
		order = -1
	case a == nil:
		order = 1
	default:
		order = compareKeys(a[:c.t.keys], b[:c.t.keys])
	}
	switch {
	case order < 0:
		c.added, c.bytes = append(c.added, a), c.bytes+a.size()
	case order > 0:
		c.missed = append(c.missed, b[:c.t.keys])
	case !sameRow(a, b):
		c.changed, c.bytes = append(c.changed, a), c.bytes+a.size()
	}
	return order
}

// flush writes a batch in one transaction, in which alone the target is open.
func (c *copier) flush(ctx context.Context, batch *changes) error {
	if len(batch.added)+len(batch.changed)+len(batch.missed) == 0 {
		return nil
	}
	return c.inside(ctx, batch.bytes, batch.apply)
}

// inside runs fn on the target, unless another run has taken it over.
func (c *copier) inside(ctx context.Context, size int, fn func(context.Context, querier) error) error {
	_, err := write(ctx, c.to, op{size: size, recognises: always}, func(ctx context.Context, q querier) (struct{}, error) {
		const turn = `UPDATE webhook_copies SET closed = $1 WHERE side = 'to' AND copy_id = $2 AND run_id = $3 AND closed <> $1`
		n, err := exec(ctx, q, turn, 0, c.target.id, c.run)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s: %w", c.targetName, errTakenOver)
		}
		if err == nil {
			err = fn(ctx, q)
		}
		if err == nil {
			_, err = exec(ctx, q, turn, 1, c.target.id, c.run)
		}
		return struct{}{}, err
	})
	return err
}

// prove reads both databases back. The next id is one that the source has never
// given to anybody.
func (c *copier) prove(ctx context.Context) ([]CopiedTable, error) {
	last, err := one[int64](ctx, c.from.reads, c.from.lastID)
	if err != nil {
		return nil, fmt.Errorf("read the last id: %w", classify(err))
	}
	err = c.inside(ctx, 0, func(ctx context.Context, q querier) error { return execAll(ctx, q, c.to.setLastID, last) })
	if err != nil {
		return nil, fmt.Errorf("set the last id: %w", err)
	}
	var tables []CopiedTable
	var differ []string
	for _, t := range copiedTables {
		n, err := c.compare(ctx, t)
		if err != nil {
			return tables, fmt.Errorf("read back: %w", classify(err))
		}
		if tables = append(tables, n); !n.Equal() {
			differ = append(differ, n.Name)
		}
	}
	got, err := one[int64](ctx, c.to.reads, c.to.lastID)
	switch {
	case err != nil:
		return tables, fmt.Errorf("read the last id: %w", classify(err))
	case got < last:
		differ = append(differ, fmt.Sprintf("the last id (%d, want %d)", got, last))
	}
	if len(differ) > 0 {
		return tables, fmt.Errorf("%w in %s; %s stays closed: run the same command again", ErrDiffers, strings.Join(differ, ", "), c.targetName)
	}
	return tables, nil
}

// openTarget ends the copy, unless the source was opened again meanwhile.
func (c *copier) openTarget(ctx context.Context) error {
	now, err := readSide(ctx, c.from.reads, sideFrom)
	if err == nil && (now == nil || !now.closed || now.id != c.source.id) {
		err = fmt.Errorf("%w: %s was opened again meanwhile", queue.ErrRefused, c.sourceName)
	}
	if err == nil {
		err = c.to.open(ctx, *c.target)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", c.targetName, classify(err))
	}
	return nil
}

// compare reads both sides at once.
func (c *copier) compare(ctx context.Context, t copied) (CopiedTable, error) {
	n := CopiedTable{Name: string(t.name)}
	var mu sync.Mutex
	var rows int64
	progress := func(more int64) {
		mu.Lock()
		defer mu.Unlock()
		rows += more
		c.Progress("reading back "+string(t.name), rows)
	}
	read := func(d *opened, rows *int64, sum *queue.Text) error {
		count, hash, err := digest(ctx, d.reads, t, progress)
		*rows, *sum = count, queue.Text(hash)
		return err
	}
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = read(c.from, &n.RowsFrom, &n.DigestFrom) })
	wg.Go(func() { errs[1] = read(c.to, &n.RowsTo, &n.DigestTo) })
	wg.Wait()
	return n, errors.Join(errs[:]...)
}
