package cli

import (
	"time"

	"orchestrate/internal/queue"
)

// progress is one line on the terminal that is rewritten, for what takes long.
type progress struct {
	app    *App
	format string
	start  time.Time
	shown  bool
}

// progressAfter is how long something may take before it shows how far it is.
const progressAfter = 500 * time.Millisecond

func (a *App) newProgress(format string) *progress {
	return &progress{app: a, format: format, start: queue.Clock()}
}

// show rewrites the line, once there is reason to.
func (p *progress) show(n int) {
	if !p.app.ErrTTY || p.app.quiet || queue.Clock().Sub(p.start) < progressAfter {
		return
	}
	p.shown = true
	p.app.say("\r"+p.format+"\x1b[K", n)
}

// clear removes the line.
func (p *progress) clear() {
	if p.shown {
		p.app.say("\r\x1b[K")
	}
}
