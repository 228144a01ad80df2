//go:build unix && !linux

package main

import "context"

// order has no strace here.
func (h *harness) order(context.Context) error {
	h.say("not run: Linux only")
	return nil
}
