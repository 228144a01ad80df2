package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// maxTries bounds how often an operation is run again after a deadlock or a
	// lost connection.
	maxTries = 20
	// firstWait doubles up to lastWait; up to as much again is added by chance.
	firstWait = 2 * time.Millisecond
	lastWait  = 500 * time.Millisecond
	// commitGrace is how long a commit that was sent is waited for after its
	// caller has given up: not knowing is dear.
	commitGrace = time.Second
	// maxDoubt bounds how long an unknown commit is asked after; the marks are
	// kept for longer.
	maxDoubt  = time.Minute
	keptMarks = "10 minutes"
	// awayInDoubt is how long it is asked after where no connection can be made:
	// then the caller is told that the database is away, and what it does again
	// is harmless.
	awayInDoubt = 3 * time.Second
)

// run implements runner: a transaction of its own, run again where another was
// in its way or the connection was lost.
func (p *Postgres) run(o *op) error {
	ctx := o.ctx
	if o.intake {
		select {
		case p.intake <- struct{}{}:
			defer func() { <-p.intake }()
		case <-ctx.Done():
			return waited(ctx)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, maxDoubt)
	defer cancel()
	err := p.untilKnown(ctx, o)
	switch {
	case err == nil && o.wakes:
		p.notify()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled): // also of waiting for a connection
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, inOneLine(err))
	}
	return classify(err)
}

// untilKnown runs an operation until it is committed, or is known not to be and
// not worth another try.
func (p *Postgres) untilKnown(ctx context.Context, o *op) error {
	wait, begun := firstWait, queue.Clock()
	for try := 1; ; try++ {
		mark, err := p.once(ctx, o)
		lost := errors.Is(err, errLostCommit)
		switch {
		case err == nil || errors.Is(err, errCommitted):
			return nil
		case lost && mark != 0:
			committed, fenceErr := p.fence(ctx, mark)
			if fenceErr != nil {
				return errors.Join(err, fenceErr)
			}
			if committed {
				return nil
			}
		case lost:
			o.inDoubt = true
		case isDeadlock(err) && try < maxTries:
		case isBroken(err) && !isAway(err) && (o.inDoubt || try < maxTries):
		case isAway(err) && o.inDoubt && queue.Clock().Sub(begun) < awayInDoubt:
		default:
			return err
		}
		if isBroken(err) {
			p.pool.Reset() // its siblings are likely to be broken, too
		}
		if !pause(ctx, &wait) {
			return errors.Join(waited(ctx), err)
		}
	}
}

// pause tells whether the context has not ended meanwhile.
func pause(ctx context.Context, wait *time.Duration) bool {
	t := time.NewTimer(*wait + rand.N(*wait)) //nolint:gosec // jitter, not a secret
	defer t.Stop()
	*wait = min(2**wait, lastWait)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errLostCommit: the commit was sent, and no answer came.
var errLostCommit = errors.New("the connection was lost before the commit was answered")

// once runs an operation in one transaction. It returns the mark that was
// committed with it, if any.
func (p *Postgres) once(ctx context.Context, o *op) (mark int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // back to the pool, which drops one that is in doubt
	if _, err := simple(ctx, conn, p.session.begin); err != nil {
		return 0, err
	}
	if err := o.fn(ctx, pgTx{conn}); err != nil {
		_, _ = simple(ctx, conn, "ROLLBACK") // or the pool closes it
		return 0, err
	}
	commit := "COMMIT"
	if o.recognises == nil || !o.recognises() {
		mark = rand.Int64() | 1 //nolint:gosec // it must differ from others, not be secret
		commit = fmt.Sprintf("INSERT INTO webhook_commits (mark) VALUES (%d); COMMIT", mark)
	}
	return mark, p.commit(ctx, conn, commit)
}

func (p *Postgres) commit(ctx context.Context, conn *sql.Conn, text string) error {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(commitGrace, cancel) })
	defer stop()
	tag, err := simple(detached, conn, text)
	var e *pgconn.PgError
	switch {
	case err == nil && tag == "COMMIT":
		return nil
	case err == nil:
		return fmt.Errorf("commit was answered by %s", tag)
	case errors.As(err, &e) && e.SeverityUnlocalized == "ERROR": // it was refused, not interrupted
		_, _ = simple(ctx, conn, "ROLLBACK")
		return err
	}
	// The driver calls even this "safe to retry" where the connection ended while
	// it waited for the answer, so that its word counts for nothing here.
	return fmt.Errorf("%w: %w", errLostCommit, err)
}

// fence puts the mark of a transaction whose fate is unknown. It waits for one
// that is still under way; one that is not will find its mark taken.
func (p *Postgres) fence(ctx context.Context, mark int64) (committed bool, err error) {
	begun := queue.Clock()
	for wait := firstWait; ; {
		var isFence bool
		try, cancel := context.WithTimeout(ctx, p.timeout)
		isFence, err = one[bool](try, p.db, `INSERT INTO webhook_commits (mark, fence) VALUES ($1, true)
			ON CONFLICT (mark) DO UPDATE SET at = webhook_commits.at RETURNING webhook_commits.fence`, mark)
		cancel()
		if err == nil {
			return !isFence, nil
		}
		if isBroken(err) {
			p.pool.Reset()
		}
		if isAway(err) && queue.Clock().Sub(begun) > awayInDoubt || !pause(ctx, &wait) {
			return false, fmt.Errorf("ask after the commit: %w", err)
		}
	}
}

// sweepTime is when marks were last cleared away, in Unix milliseconds.
type sweepTime struct{ atomic.Int64 }

const sweepEvery = time.Minute

// Rescue implements queue.Store. Every worker calls it every few seconds, so
// that old marks go with it.
func (p *Postgres) Rescue(ctx context.Context, dead map[queue.Text]int64, now queue.Time) ([]queue.Rescued, error) {
	if last := p.swept.Load(); now.Sub(queue.Time(last)) >= sweepEvery && p.swept.CompareAndSwap(last, int64(now)) {
		if _, err := p.db.ExecContext(ctx, "DELETE FROM webhook_commits WHERE at < now() - interval '"+keptMarks+"'"); err != nil {
			return nil, classify(err)
		}
	}
	return p.shared.Rescue(ctx, dead, now)
}

// simple runs statements without parameters in one round trip and returns the
// last one's tag.
func simple(ctx context.Context, conn *sql.Conn, text string) (tag string, err error) {
	err = conn.Raw(func(c any) error {
		std, ok := c.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("connection is a %T", c)
		}
		results, err := std.Conn().PgConn().Exec(ctx, text).ReadAll()
		if err == nil && len(results) > 0 {
			tag = results[len(results)-1].CommandTag.String()
		}
		return err
	})
	return tag, err
}

// slots are the clauses that the shared SQL has a place for. Locks are taken
// jobs before events, in order of their keys. A plain UPDATE … FROM locks in
// the order of its plan, and deadlocked.
var slots = strings.NewReplacer(
	"/*skip locked*/", "FOR UPDATE OF j SKIP LOCKED",
	"/*lock jobs*/", "FOR UPDATE OF j",
	"/*lock event*/", "FOR NO KEY UPDATE",
	"/*lock worker*/", "FOR KEY SHARE", // a rescuer that deletes it waits, and then sees the claim
	"/*lock events*/", `, l AS MATERIALIZED (SELECT e.id AS locked FROM webhook_events e JOIN d ON d.id = e.id
		ORDER BY e.id FOR NO KEY UPDATE OF e)`,
	"/*locked*/", "JOIN l ON l.locked = d.id",
)

// pgTx is a transaction.
type pgTx struct{ conn *sql.Conn }

// ExecContext implements querier.
func (t pgTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.conn.ExecContext(ctx, slots.Replace(query), args...)
}

// QueryContext implements querier.
func (t pgTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(ctx, slots.Replace(query), args...)
}

// pgReads reads outside of transactions, and again where the connection turned
// out to be broken, as the idle ones are after a restart of the server.
type pgReads struct{ p *Postgres }

// ExecContext implements querier.
func (r pgReads) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return r.p.db.ExecContext(ctx, query, args...)
}

// QueryContext implements querier.
func (r pgReads) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	for try := 1; ; try++ {
		rows, err := r.p.db.QueryContext(ctx, query, args...)
		if err == nil || !isBroken(err) || isAway(err) || try == 3 || ctx.Err() != nil {
			return rows, err
		}
		r.p.pool.Reset()
	}
}
