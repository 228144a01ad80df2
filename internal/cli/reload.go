package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

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
// command has, and returns what to change; it changes nothing by itself.
func (a *App) reloads(ctx context.Context, q *queue.Queue, prepare func(next *wired) (change func(), err error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.hangups:
		}
		if ctx.Err() != nil {
			return
		}
		if err := a.reload(ctx, q, prepare); err != nil {
			q.RefuseReload(ctx, err)
		}
	}
}

// startReloads follows the configuration beside what else a daemon does.
func (a *App) startReloads(ctx context.Context, q *queue.Queue, prepare func(*wired) (func(), error)) (ended <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.reloads(ctx, q, prepare)
	}()
	return done
}

// reloadPatience is how long a stop waits for a reload. One that reads from where
// nothing comes, a pipe or a file system that is away, ends with the process.
const reloadPatience = time.Second

func awaitReload(ended <-chan struct{}) {
	patience := time.NewTimer(reloadPatience)
	defer patience.Stop()
	select {
	case <-ended:
	case <-patience.C:
	}
}

func (a *App) reload(ctx context.Context, q *queue.Queue, prepare func(*wired) (func(), error)) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errInternal, v)
		}
	}()
	c, err := a.loadConfig()
	if err != nil {
		return a.everything(err)
	}
	if err := reloadable(a.wired.config, c); err != nil {
		return err
	}
	next, err := a.wired.compile(c)
	if err != nil {
		return err
	}
	change, err := prepare(next)
	if err != nil {
		return err
	}
	next.level.Set(a.logLevel(c))
	q.Reload(ctx, &next.queue)
	change() // after the routes, so that none of a new source's events misses them
	a.wired.release()
	a.wired = next
	next.warn(ctx)
	if err := q.WarnUnknownRoutes(ctx); err != nil {
		next.log.WarnContext(ctx, "look for jobs of unknown routes", "error", err.Error())
	}
	return nil
}

// release closes what the handlers keep open between attempts; those that run go
// on.
func (w *wired) release() {
	for _, h := range w.handlers {
		if h, ok := h.(interface{ CloseIdleConnections() }); ok {
			h.CloseIdleConnections()
		}
	}
}

// reloadable refuses what only a restart can change, so that the configuration
// that runs is always one that stands in a file as a whole; and what an editor or
// a deployment leaves for a moment: no file, or an empty one, would drop every
// route.
func reloadable(now, next *config.Config) error {
	switch {
	case next.File == "" && now.File != "":
		return fmt.Errorf("%s is gone; to run without a configuration, restart", now.File)
	case next.File != now.File:
		return fmt.Errorf("%s is another file than %s; to follow it, restart", next.File, cmp.Or(now.File, "none"))
	case next.Empty && !now.Empty:
		return fmt.Errorf("%s is empty; to run without a configuration, restart", next.File)
	}
	var errs []error
	if len(next.Secrets) == 0 && len(now.Secrets) > 0 {
		errs = append(errs, errors.New("secrets: there are none any more; to let serve make one, restart"))
	}
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
