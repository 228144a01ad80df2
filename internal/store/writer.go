package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"orchestrate/internal/queue"

	"github.com/gofrs/flock"
)

const (
	// maxGroup and maxGroupBytes bound one transaction, so that a settle never
	// waits long behind intake.
	maxGroup      = 256
	maxGroupBytes = 4 << 20
	// maxWaiting is how many writes may wait for the disk: some seconds' worth.
	maxWaiting = 4096
	// checkpointEvery is how often an idle moment is used to empty the WAL.
	checkpointEvery = 30 * time.Second
	// longWAL is from how many frames on the WAL is moved into the database.
	longWAL = 1000
)

// writer owns the one write connection of a process. It takes what waits, runs
// it in one transaction, commits once, then answers all: no timer, groups form
// by themselves while a commit is under way.
type writer struct {
	db       *sql.DB
	database string
	opened   openFiles
	urgent   chan *op // settles, claims, heartbeats, verbs: before intake
	intake   chan *op

	broken   chan struct{} // closed after a failed sync, or when damage was met
	why      error         // to be read once broken is closed
	breaking sync.Once
	refused  atomic.Bool   // the disk did not take the last write
	fullAt   atomic.Int64  // when it last did not take one, in nanoseconds
	patience time.Duration // for the lock that another process holds

	start   sync.Once
	stop    chan struct{}
	stopped chan struct{}

	// Owned by the goroutine.
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	dirty bool // written since the last checkpoint
}

func newWriter(db *sql.DB, o Options) *writer {
	return &writer{
		db: db, database: realPath(o.Database), patience: o.Timeout, urgent: make(chan *op, maxWaiting), intake: make(chan *op, maxWaiting),
		broken: make(chan struct{}), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// run implements runner.
func (w *writer) run(o *op) error {
	w.start.Do(func() { go w.loop() })
	o.done = make(chan error, 1)
	if o.intake {
		select {
		case w.intake <- o:
		default:
			return queue.ErrBusy
		}
	} else {
		select {
		case w.urgent <- o:
		case <-o.ctx.Done():
			return waited(o.ctx)
		case <-w.stopped:
			return classify(sql.ErrConnDone)
		}
	}
	select {
	case err := <-o.done:
		return err
	case <-o.ctx.Done():
		return o.answerOr(waited(o.ctx))
	case <-w.stopped:
		return o.answerOr(classify(sql.ErrConnDone))
	}
}

// answerOr prefers an answer that came at the same time.
func (o *op) answerOr(err error) error {
	select {
	case answer := <-o.done:
		return answer
	default:
		return err
	}
}

// waited says that the caller's patience ended before the commit did.
func waited(ctx context.Context) error {
	return fmt.Errorf("%w: gave up waiting for the commit: %w", queue.ErrUnavailable, context.Cause(ctx))
}

// close ends the goroutine after what waits has been written.
func (w *writer) close() {
	w.start.Do(func() { close(w.stopped) })
	close(w.stop)
	<-w.stopped
}

func (w *writer) loop() {
	defer close(w.stopped)
	defer w.release()
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		first := w.poll()
		if first == nil {
			select {
			case first = <-w.urgent:
			case first = <-w.intake:
			case <-tick.C:
				w.checkpoint()
				continue
			case <-w.stop:
				if first = w.poll(); first == nil {
					return
				}
			}
		}
		group := w.gather(first)
		w.commit(group)
		w.shorten(slices.ContainsFunc(group, func(o *op) bool { return o.shrinks }))
	}
}

// poll takes what waits, the urgent lane first; nil if nothing does.
func (w *writer) poll() *op {
	select {
	case o := <-w.urgent:
		return o
	default:
	}
	select {
	case o := <-w.intake:
		return o
	default:
		return nil
	}
}

func (w *writer) gather(o *op) []*op {
	var group []*op
	for bytes := 0; o != nil; o = w.poll() {
		if err := o.ctx.Err(); err != nil {
			o.done <- waited(o.ctx)
		} else {
			group = append(group, o)
			bytes += o.size
		}
		if len(group) >= maxGroup || bytes >= maxGroupBytes {
			break
		}
	}
	return group
}

// commit writes a group and answers it. When an operation errs, everything is
// rolled back and run again, each under a savepoint of its own, so that one bad
// operation costs its neighbours nothing.
func (w *writer) commit(group []*op) {
	done, ok := w.yield()
	defer done()
	if !ok {
		group = slices.DeleteFunc(slices.Clone(group), func(o *op) bool {
			if o.intake {
				o.done <- errCleaning
			}
			return o.intake
		})
	}
	if len(group) == 0 {
		return
	}
	errs := make([]error, len(group))
	err := w.transaction(func(ctx context.Context, q querier) error {
		for i, o := range group {
			if errs[i] = o.fn(ctx, q); errs[i] != nil {
				return errs[i]
			}
		}
		return nil
	})
	if err != nil && len(group) > 1 && !errors.Is(err, errTransaction) {
		clear(errs)
		err = w.transaction(func(ctx context.Context, q querier) error { return w.separately(ctx, q, group, errs) })
	}
	for i, o := range group {
		if err != nil {
			errs[i] = err // whatever it read or wrote did not happen
		}
		o.done <- classify(errs[i])
	}
}

// errTransaction marks failures of BEGIN, SAVEPOINT, ROLLBACK TO and COMMIT:
// they concern the whole group.
var errTransaction = errors.New("transaction")

// transaction runs fn between BEGIN and COMMIT, on the writer's context: a
// caller that gives up must not interrupt the others.
func (w *writer) transaction(fn func(context.Context, querier) error) error {
	if err := w.trusted(); err != nil {
		return err
	}
	ctx := context.Background()
	if err := w.begin(ctx); err != nil {
		return fmt.Errorf("%w: begin: %w", errTransaction, w.noteBroken(err))
	}
	err := fn(ctx, w)
	if err == nil {
		w.dirty = true
		if _, err = w.ExecContext(ctx, "COMMIT"); err == nil {
			w.refused.Store(false)
			return nil
		}
		err = fmt.Errorf("%w: commit: %w", errTransaction, err)
	}
	err = w.noteBroken(err)
	// SQLite may have rolled back by itself (disk full, I/O error), so an error
	// here means nothing; but a connection in doubt is not used again.
	if _, rollback := w.ExecContext(ctx, "ROLLBACK"); rollback != nil {
		w.release()
	}
	return err
}

// begin takes the write lock. SQLite polls for it, so that on a slow disk a
// process which commits without a pause would keep it from all others for good.
// So whoever has polled in vain for a while locks the directory, which everybody
// looks at first.
func (w *writer) begin(ctx context.Context) error {
	turn := flock.New(filepath.Dir(w.database), flock.SetFlag(os.O_RDONLY))
	polite, cancel := context.WithTimeout(ctx, maxPolite)
	_, _ = turn.TryRLockContext(polite, turnPoll) // where there are no such locks it is as without
	cancel()
	_ = turn.Unlock()
	err := w.tryBegin(ctx)
	if !isBusy(err) {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	_, _ = turn.TryLockContext(waiting, turnPoll)
	defer func() { _ = turn.Unlock() }()
	for isBusy(err) && waiting.Err() == nil {
		err = w.tryBegin(ctx)
	}
	return err
}

const (
	// busyPoll is how long SQLite polls at a time: ever more seldom, from 1 ms to
	// 25 ms.
	busyPoll = 100 * time.Millisecond
	turnPoll = 2 * time.Millisecond
	// maxPolite is how long others are let first: enough for one that polls. One
	// that was stopped meanwhile must not hold up everybody.
	maxPolite = 250 * time.Millisecond
)

func (w *writer) tryBegin(ctx context.Context) error {
	if w.conn == nil {
		conn, err := w.db.Conn(ctx)
		if err != nil {
			return err
		}
		w.conn, w.stmts = conn, map[string]*sql.Stmt{}
	}
	_, err := w.ExecContext(ctx, "BEGIN IMMEDIATE")
	if err != nil && !isBusy(err) {
		w.release()
	}
	return err
}

// separately runs each operation under a savepoint. It returns an error only
// when the transaction itself is in doubt: on a full disk SQLite rolls the
// whole of it back, and what ran next would commit alone.
func (w *writer) separately(ctx context.Context, q querier, group []*op, errs []error) error {
	savepoint := func(s statement) error {
		if _, err := exec(ctx, q, s); err != nil {
			return fmt.Errorf("%w: %s: %w", errTransaction, s, err)
		}
		return nil
	}
	for i, o := range group {
		if err := savepoint("SAVEPOINT op"); err != nil {
			return err
		}
		if errs[i] = o.fn(ctx, q); errs[i] != nil {
			if err := savepoint("ROLLBACK TO op"); err != nil {
				return errors.Join(err, errs[i])
			}
		}
		if err := savepoint("RELEASE op"); err != nil {
			return err
		}
	}
	return nil
}

// noteBroken ends all writing where an error says that nothing can be trusted, and
// of a failed sync the other processes, too. It returns the error; of damage one
// that names the file.
func (w *writer) noteBroken(err error) error {
	if isDiskFailure(err) {
		w.refused.Store(true) // CheckWrites asks whether it still does
		w.fullAt.Store(queue.Clock().UnixNano())
	}
	switch {
	case err == nil:
		return nil
	case isDamage(err):
		err = fmt.Errorf("%w: %s: %w%s", queue.ErrDamaged, w.database, err, restoreIt)
	case errors.Is(classify(err), queue.ErrBroken):
		mark(w.database)
	default:
		return err
	}
	w.breakWith(classify(err))
	return err
}

func (w *writer) breakWith(why error) {
	w.breaking.Do(func() {
		w.why = why
		close(w.broken)
	})
}

// shorten moves a long WAL into the database, so that it is begun anew. SQLite's
// own checkpoint, at the end of a commit, tells nobody that a sync failed, and
// the next one would rely on it.
func (w *writer) shorten(now bool) {
	if w.conn == nil || w.trusted() != nil {
		return
	}
	ctx := context.Background()
	l, err := walLength(ctx, w, "NOOP")
	switch {
	case err != nil:
	case now: // so that the room of the WAL is free, too
		_, err = emptyWAL(ctx, w.conn)
	case l.frames >= longWAL && l.moved < l.frames:
		_, err = walLength(ctx, w, "PASSIVE")
	}
	_ = w.noteBroken(err) // a full disk leaves it as it is, for the next time
}

// walState is how long the WAL is, and how much of it is in the database.
type walState struct{ busy, frames, moved int }

// walLength runs a checkpoint; NOOP only looks.
func walLength(ctx context.Context, q querier, mode statement) (walState, error) {
	found, err := all(ctx, q, "PRAGMA wal_checkpoint("+mode+")", nil, func(rows *sql.Rows, l *walState) error {
		return rows.Scan(&l.busy, &l.frames, &l.moved)
	})
	if err != nil || len(found) == 0 {
		return walState{}, err
	}
	return found[0], nil
}

// checkpoint empties the WAL. Others may be reading or writing: then it stays,
// and the next time comes.
func (w *writer) checkpoint() {
	if !w.dirty || w.conn == nil || w.trusted() != nil {
		return
	}
	done, err := emptyWAL(context.Background(), w.conn)
	w.dirty = !done
	if w.noteBroken(err) != nil {
		w.release()
	}
}

// emptyWAL tells whether it could. It waits for nobody: under the busy timeout
// it would hold the write lock until the last reader has ended.
func emptyWAL(ctx context.Context, conn *sql.Conn) (done bool, err error) {
	var timeout int
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&timeout); err != nil {
		return false, err
	}
	if _, err := conn.ExecContext(ctx, "PRAGMA busy_timeout=0"); err != nil {
		return false, err
	}
	l, err := walLength(ctx, conn, "TRUNCATE")
	if isBusy(err) {
		l.busy, err = 1, nil
	}
	_, restore := exec(ctx, conn, "PRAGMA busy_timeout="+digits(timeout))
	return err == nil && l.busy == 0, errors.Join(err, restore)
}

// release closes the connection for good, whatever its state; the next
// transaction opens another. After a failed sync, or of a damaged database, it
// stays.
func (w *writer) release() {
	if keepsLog(w.database, w.trusted()) {
		return
	}
	for _, s := range w.stmts {
		_ = s.Close() // a handle: nothing can be lost
	}
	if w.conn != nil {
		_ = w.conn.Raw(func(any) error { return driver.ErrBadConn }) // keeps it out of the pool
		_ = w.conn.Close()
	}
	w.conn, w.stmts = nil, nil
}

// maxStmts bounds the cache of prepared statements: the texts with a varying
// number of rows are many.
const maxStmts = 512

// prepared returns the statement for a text, prepared once a connection.
func (w *writer) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := w.stmts[query]; s != nil {
		return s, nil
	}
	if len(w.stmts) >= maxStmts {
		for text, s := range w.stmts {
			_ = s.Close()
			delete(w.stmts, text)
		}
	}
	s, err := w.conn.PrepareContext(ctx, query)
	if err == nil {
		w.stmts[query] = s
	}
	return s, err
}

// ExecContext implements querier on the write connection.
func (w *writer) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if w.conn == nil {
		return nil, sql.ErrConnDone
	}
	s, err := w.prepared(ctx, query) //nolint:sqlclosecheck // kept for the next time; release closes it
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args...)
}

// QueryContext implements querier on the write connection.
func (w *writer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if w.conn == nil {
		return nil, sql.ErrConnDone
	}
	s, err := w.prepared(ctx, query) //nolint:sqlclosecheck // kept for the next time; release closes it
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}
