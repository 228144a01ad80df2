package handler

import (
	"sync"
	"time"

	"orchestrate/internal/queue"
)

// Containment is how the processes of an attempt are kept together, so that
// none outlives it: in a cgroup, which takes the right to write to another one to
// leave, or in a process group, which any process leaves by setsid. It is for what
// is forgotten, not against what wants to stay: who may make cgroups may leave
// them. nil is a process group. Safe for concurrent use.
type Containment struct {
	parent string // the cgroup in which each attempt gets one; empty: none can be made
	why    string

	mu         sync.Mutex
	complained time.Time
}

// String is "cgroup" or "process group".
func (c *Containment) String() string {
	if c == nil || c.parent == "" {
		return "process group"
	}
	return "cgroup"
}

// Why tells why there are no cgroups; it is empty where there are.
func (c *Containment) Why() string {
	if c == nil {
		return "not asked for"
	}
	return c.why
}

// complaintInterval is how often a cgroup that can't be made is worth a line.
const complaintInterval = time.Minute

// complain tells whether it is time to log that a cgroup can't be made.
func (c *Containment) complain() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := queue.Clock()
	if !c.complained.IsZero() && now.Sub(c.complained) < complaintInterval {
		return false
	}
	c.complained = now
	return true
}

// cgroup is the directory of an attempt's cgroup; empty: there is none.
type cgroup string

const (
	// cgroupPrefix, with the name of the attempt's directory behind it, marks the
	// cgroups that Sweep may end.
	cgroupPrefix = "orchestrate-"
	// cgroupDelay is how long the end of killed processes is waited for: those
	// that hold much memory, or wait for a disk, take their time.
	cgroupDelay = 5 * time.Second
)
