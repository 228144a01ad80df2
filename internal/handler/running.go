package handler

import "sync"

// Running knows the commands that run, so that a program that ends at once can
// end them, too. The zero value is ready; nil knows none.
type Running struct {
	mu     sync.Mutex
	all    map[*process]struct{}
	killed bool
}

// Kill kills every running command with its process group and its cgroup, and
// each that is still to start.
func (r *Running) Kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed = true
	for p := range r.all {
		p.kill()
	}
}

func (r *Running) add(p *process) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[*process]struct{}{}
	}
	r.all[p] = struct{}{}
	if r.killed {
		p.kill()
	}
}

// remove comes before the leader is reaped: its number is not ours afterwards.
func (r *Running) remove(p *process) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, p)
}
