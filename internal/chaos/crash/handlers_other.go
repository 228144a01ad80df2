//go:build unix && !linux

package main

import "context"

// handlers looks into /proc.
func (h *harness) handlers(context.Context) error {
	h.say("not run: Linux only")
	return nil
}
