// Package queue is the domain: what an event is, how it moves, and who may
// move it.
//
// An event is a stored webhook delivery. Each route that wants it gets a job:
// the unit of claim, retry and dead letter. Jobs stand apart from events
// because one event may start several things, each with its own fate: a mirror
// must not wait for a thirty-minute agent, nor run again because the agent
// failed. Rejected: running all handlers inside one attempt (one failure
// repeats the others), and one event row a route (counts stop meaning
// deliveries).
//
// Queue is the one service; commands and HTTP handlers call only it. It speaks
// to a Store, which keeps the rows, and to Matchers and Handlers, which a
// configuration brings. This package imports none of their packages.
package queue
