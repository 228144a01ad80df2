//go:build unix && !linux

package main

import "context"

// killAtCalls has no way to stop a program before a system call here.
func (h *harness) killAtCalls(context.Context) error {
	h.say("not run: Linux only")
	return nil
}
