package cli

import (
	"context"
	"errors"
	"fmt"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

// catchHangups makes a hang-up ask a daemon for another look at its
// configuration, instead of ending it.
func (a *App) catchHangups() {
	a.reloadable.Store(true)
	if a.notifyHangup != nil {
		a.notifyHangup()
	}
}

// reloads follows the configuration at each hang-up until ctx ends: all of it,
// or, where anything is wrong with it, nothing. prepare looks at what only this
// command has, and returns what to change.
func (a *App) reloads(ctx context.Context, q *queue.Queue, prepare func(next *wired) (change func() error, err error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.hangups:
		}
		if err := a.reload(ctx, q, prepare); err != nil {
			q.RefuseReload(ctx, err)
		}
	}
}

func (a *App) reload(ctx context.Context, q *queue.Queue, prepare func(*wired) (func() error, error)) error {
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	if err := reloadable(a.wired.config, c); err != nil {
		return err
	}
	next, err := a.wired.compile(c, true)
	if err != nil {
		return err
	}
	change, err := prepare(next)
	if err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	next.level.Set(a.logLevel(c))
	a.wired = next
	q.Reload(ctx, &next.queue)
	next.warn(ctx)
	if err := q.WarnUnknownRoutes(ctx); err != nil {
		next.log.WarnContext(ctx, "look for jobs of unknown routes", "error", err.Error())
	}
	return nil
}

// reloadable refuses what only a restart can change, so that the configuration
// that runs is always one that stands in a file as a whole.
func reloadable(now, next *config.Config) error {
	var errs []error
	for _, k := range []struct{ key, now, next string }{
		{"listen", now.Listen, next.Listen},
		{"admin_listen", now.AdminListen, next.AdminListen},
		{"database", now.Database, next.Database},
		{"log.format", now.Log.Format, next.Log.Format},
	} {
		if k.now != k.next {
			errs = append(errs, fmt.Errorf("%s: from %s to %s takes a restart", k.key, k.now, k.next))
		}
	}
	return errors.Join(errs...)
}
