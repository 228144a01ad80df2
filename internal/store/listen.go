package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// channel carries no message: it only says that jobs may be claimable.
	channel = "orchestrate"
	// noticeEvery is how long notices are gathered after one was sent.
	noticeEvery = 2 * time.Millisecond
	// quietFor is how long a listener waits before it asks whether its
	// connection still lives.
	quietFor = 15 * time.Second
)

// notify tells other processes, soon. A NOTIFY in the transaction itself would
// hold a lock of the whole database while the commit waits for the disk, and
// let one commit through at a time. It is lost with this process; then polling
// finds the jobs.
func (p *Postgres) notify() {
	p.begin()
	select {
	case p.notices <- struct{}{}:
	default: // one is due already
	}
}

func (p *Postgres) noticeLoop() {
	for {
		select {
		case <-p.notices:
			p.sendNotice()
		case <-p.stop:
			select {
			case <-p.notices:
				p.sendNotice()
			default:
			}
			return
		}
		t := time.NewTimer(noticeEvery)
		select {
		case <-t.C:
		case <-p.stop:
			t.Stop()
		}
	}
}

func (p *Postgres) sendNotice() {
	ctx, cancel := context.WithTimeout(context.Background(), urgentTry)
	defer cancel()
	if _, err := p.db.ExecContext(ctx, "NOTIFY "+channel); err != nil {
		p.log.DebugContext(ctx, "notify other processes", "error", err.Error())
	}
}

// Watch implements queue.Store, on a connection of its own.
func (p *Postgres) Watch(ctx context.Context, changed func()) error {
	if p.session.pooled {
		p.log.InfoContext(ctx, "behind a pooler there is no LISTEN: what other processes write is found by polling")
		<-ctx.Done()
		return ctx.Err()
	}
	for wait := firstWait; ; {
		err := p.listen(ctx, func() { wait = firstWait; changed() })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.log.DebugContext(ctx, "listen again", "error", err.Error())
		if !pause(ctx, &wait) {
			return ctx.Err()
		}
	}
}

// listen returns when the connection is lost.
func (p *Postgres) listen(ctx context.Context, changed func()) error {
	conn, err := pgx.ConnectConfig(ctx, p.pool.Config().ConnConfig.Copy())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	changed() // what was written before is not known to be seen
	for {
		quiet, cancel := context.WithTimeout(ctx, quietFor)
		_, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			changed()
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			if err := p.ping(ctx, conn); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func (p *Postgres) ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, urgentTry)
	defer cancel()
	return conn.Ping(ctx)
}
