package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5"
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
	// unacknowledged is after how long without a word of the other side's kernel
	// a connection is given up, where that can be set.
	unacknowledged = 6 * time.Second
	// awayInDoubt is how long it is asked after where no connection can be made:
	// then the caller is told that the database is away, and what it does again
	// is harmless.
	awayInDoubt = 3 * time.Second
)

// keepAlive notices a dead server while nothing is sent.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

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
		case err == nil:
			return nil
		case lost && mark != 0:
			committed, fenceErr := p.fence(ctx, mark)
			if fenceErr != nil {
				return errors.Join(err, fenceErr)
			}
			if committed && o.recall != nil {
				return o.recall(ctx, mark)
			}
			if committed {
				return nil
			}
		case lost:
			o.inDoubt = true
		case (isDeadlock(err) || o.statement != nil && isCheck(err)) && try < maxTries:
		case errors.Is(err, errNoConnection):
			return err
		case isBroken(err) && !isAway(err) && (o.inDoubt || try < maxTries):
		case isAway(err) && o.inDoubt && queue.Clock().Sub(begun) < awayInDoubt:
		default:
			return err
		}
		p.distrust(err)
		if !pause(ctx, &wait) {
			return errors.Join(waited(ctx), err)
		}
	}
}

// distrust drops the connections that may share what befell one of them: a
// server that restarted, or one that is no longer the primary. One that took too
// long says nothing of the others.
func (p *Postgres) distrust(err error) {
	if isBroken(err) && !errors.Is(err, context.DeadlineExceeded) || isReadOnly(err) {
		p.pool.Reset()
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

// errNoConnection: all were in use, and none became free.
var errNoConnection = errors.New("no connection became free")

func noConnection(ctx context.Context, err error) error {
	if !isAway(err) && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errNoConnection, err)
	}
	return err
}

// errLostCommit: the commit was sent, and no answer came.
var errLostCommit = errors.New("the connection was lost before the commit was answered")

// once runs an operation in one transaction. It returns the mark that was
// committed with it, if any.
func (p *Postgres) once(ctx context.Context, o *op) (mark int64, err error) {
	if o.statement != nil {
		return p.atOnce(ctx, o)
	}
	begin, try := p.session.begin, p.try
	if o.urgent {
		try = min(try, urgentTry)
	}
	if o.lockTimeout > 0 {
		begin += "; SET LOCAL lock_timeout = " + digits(o.lockTimeout.Milliseconds())
	}
	ctx, cancel := context.WithTimeout(ctx, try)
	defer cancel()
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return 0, noConnection(ctx, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool, which drops one that is in doubt
	if _, err := simple(ctx, conn, begin); err != nil {
		return 0, err
	}
	err = o.fn(ctx, pgTx{conn, p.session.pooled})
	before := errors.Is(err, errCommitted)
	if before {
		// The caller will rely on it, and one whose answer was lost may not be on
		// the standby yet. So a commit of our own follows.
		_, err = simple(ctx, conn, "ROLLBACK; "+begin)
	}
	if err != nil {
		_, _ = simple(ctx, conn, "ROLLBACK") // or the pool closes it
		return 0, err
	}
	var commit statement = "COMMIT"
	if before || o.recognises == nil || !o.recognises() {
		mark = newMark()
		commit = "INSERT INTO webhook_commits (mark) VALUES (" + digits(mark) + "); COMMIT"
	}
	return mark, p.commit(ctx, conn, commit)
}

// newMark differs from 0, and from all others.
func newMark() int64 { return rand.Int64() | 1 } //nolint:gosec // it need not be secret

// atOnce runs an operation that is one statement, and so a transaction of its
// own in one round trip. Once it is sent it may be committed.
func (p *Postgres) atOnce(ctx context.Context, o *op) (mark int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.try)
	defer cancel()
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return 0, noConnection(ctx, err)
	}
	defer conn.Release()
	if o.recognises == nil {
		mark = newMark()
	}
	detached, stop := patient(ctx)
	defer stop()
	err = o.statement(detached, conn, mark)
	if err != nil && (isInterrupted(err) || !isRefused(err) && (isBroken(err) || detached.Err() != nil)) {
		err = fmt.Errorf("%w: %w", errLostCommit, err)
	}
	return mark, err
}

// isInterrupted: the server ended the session before it answered.
func isInterrupted(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.SeverityUnlocalized != "ERROR"
}

// isRefused: the server said that it did not do it, and goes on.
func isRefused(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.SeverityUnlocalized == "ERROR"
}

// patient outlives its parent by commitGrace.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(commitGrace, cancel) })
	return detached, func() {
		stop()
		cancel()
	}
}

func (p *Postgres) commit(ctx context.Context, conn *sql.Conn, text statement) error {
	detached, stop := patient(ctx)
	defer stop()
	tag, err := simple(detached, conn, text)
	switch {
	case err == nil && tag == "COMMIT":
		return nil
	case err == nil:
		return fmt.Errorf("commit was answered by %s", tag)
	case isRefused(err):
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
		try, cancel := context.WithTimeout(ctx, urgentTry)
		isFence, err = one[bool](try, p.db, `INSERT INTO webhook_commits (mark, fence) VALUES ($1, true)
			ON CONFLICT (mark) DO UPDATE SET at = webhook_commits.at RETURNING webhook_commits.fence`, mark)
		cancel()
		if err == nil {
			return !isFence, nil
		}
		p.distrust(err)
		if isAway(err) && queue.Clock().Sub(begun) > awayInDoubt || !pause(ctx, &wait) {
			return false, fmt.Errorf("ask after the commit: %w", err)
		}
	}
}

// sweepMarks clears away those that nobody asks after any more.
func (p *Postgres) sweepMarks(ctx context.Context) error {
	const chunk = 10_000
	for {
		n, err := exec(ctx, p.db, `DELETE FROM webhook_commits WHERE mark IN (SELECT c.mark FROM webhook_commits c
			WHERE c.at < now() - interval '`+keptMarks+`' LIMIT $1 FOR UPDATE SKIP LOCKED)`, chunk)
		if err != nil || n < chunk {
			return err
		}
	}
}

// simple runs statements without parameters in one round trip and returns the
// last one's tag.
func simple(ctx context.Context, conn *sql.Conn, text statement) (tag string, err error) {
	err = conn.Raw(func(c any) error {
		std, ok := c.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("connection is a %T", c)
		}
		results, err := std.Conn().PgConn().Exec(ctx, string(text)).ReadAll()
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
	"/*skip worker*/", "FOR UPDATE OF w SKIP LOCKED",
	"/*lock worker*/", "FOR KEY SHARE", // a rescuer that deletes it waits, and then sees the claim
	"/*lock events*/", `, l AS MATERIALIZED (SELECT e.id AS locked FROM webhook_events e JOIN d ON d.id = e.id
		ORDER BY e.id FOR NO KEY UPDATE OF e)`,
	"/*locked*/", "JOIN l ON l.locked = d.id",
)

func fillSlots(s statement) statement { return statement(slots.Replace(string(s))) }

// pgTx is a transaction.
type pgTx struct {
	conn   *sql.Conn
	pooled bool
}

// ExecContext implements querier.
func (t pgTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.conn.ExecContext(ctx, slots.Replace(query), t.sparing(args)...)
}

// QueryContext implements querier.
func (t pgTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(ctx, slots.Replace(query), t.sparing(args)...)
}

// maxPrepared is with how many parameters a statement is kept by the server. Of
// those with a row for each of a group there is one text for each size, and the
// long ones would fill its memory: 480 MB a connection for groups of up to 256.
const maxPrepared = 100

func (t pgTx) sparing(args []any) []any {
	if t.pooled || len(args) <= maxPrepared {
		return args
	}
	return append([]any{pgx.QueryExecModeCacheDescribe}, args...)
}

// pgReads reads outside of transactions, and again where the connection turned
// out to be broken, as the idle ones are after a restart of the server.
type pgReads struct{ p *Postgres }

// ExecContext implements querier.
func (r pgReads) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return r.p.db.ExecContext(ctx, query, args...)
}

// deadline bounds a read where the server never answers: it bounds those that
// it does answer by itself.
func (r pgReads) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, maxStatement+tryGrace)
}

// QueryContext implements querier.
func (r pgReads) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	for try := 1; ; try++ {
		rows, err := r.p.db.QueryContext(ctx, query, args...)
		if err == nil || !isBroken(err) || isAway(err) || try == 3 || ctx.Err() != nil {
			return rows, err
		}
		r.p.distrust(err)
	}
}
