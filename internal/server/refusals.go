package server

import (
	"context"
	"log/slog"
	"sync"
)

// refusals logs what was refused. Strangers decide how often that is, so each
// minute shows the first few of each status, and then how many more there were:
// at most lines + 1 for each of the few statuses, however many a stranger sends.
type refusals struct {
	log   *slog.Logger
	lines int // a minute, for each status

	mu   sync.Mutex
	seen map[int]int // status → how many since the last flush
}

func (f *refusals) add(ctx context.Context, level slog.Level, status int, attrs []any) {
	f.mu.Lock()
	if f.seen == nil {
		f.seen = map[int]int{}
	}
	f.seen[status]++
	show := f.seen[status] <= f.lines
	f.mu.Unlock()
	if show {
		f.log.Log(ctx, level, "refused", append(attrs, "status", status)...)
	}
}

// flush tells what was not shown, and begins anew. It is called every minute.
func (f *refusals) flush() {
	f.mu.Lock()
	seen := f.seen
	f.seen = nil
	f.mu.Unlock()
	for status, n := range seen {
		if n > f.lines {
			f.log.Warn("refused more than were shown", "status", status, "not_shown", n-f.lines)
		}
	}
}
