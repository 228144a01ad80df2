package queue

import "context"

// Reloads tells what became of the tries to replace the configuration of a
// process while it runs.
type Reloads struct {
	ReloadCount   int  `json:"reloads"`        // that succeeded
	ReloadsFailed int  `json:"reloads_failed"` // that left everything as it was
	ReloadError   Text `json:"reload_error"`   // why the last one failed; absent if it succeeded
}

// Reload replaces the configuration. Deliveries and claims that are under way
// keep the one that they took; what runs goes on, and its retries follow the
// new one.
func (q *Queue) Reload(ctx context.Context, cfg *Config) {
	old := q.cfg.Swap(cfg)
	r := q.countReload("")
	q.log.InfoContext(ctx, "reloaded", "config", cfg.Hash, "before", old.Hash, "routes", cfg.RouteNames(), "reloads", r.ReloadCount)
	q.Wake()
}

// RefuseReload counts a configuration that can't be used; the old one stays.
func (q *Queue) RefuseReload(ctx context.Context, why error) {
	r := q.countReload(Clean(why.Error()))
	q.log.ErrorContext(ctx, "reload refused: the old configuration stays", "config", q.cfg.Load().Hash,
		"error", why.Error(), "reloads_failed", r.ReloadsFailed)
}

func (q *Queue) countReload(why Text) Reloads {
	q.mu.Lock()
	defer q.mu.Unlock()
	if why == "" {
		q.reloads.ReloadCount++
	} else {
		q.reloads.ReloadsFailed++
	}
	q.reloads.ReloadError = why
	signal(q.reloaded)
	return q.reloads
}

func (q *Queue) reloadCounts() Reloads {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reloads
}

// signal leaves one message in a channel of one place.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
