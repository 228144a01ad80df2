//go:build !chaos

package store

// synchronous is SQLite's FULL: a commit returns when the disk has it. A program
// built for fault tests can be told less, to show that they find the loss.
func synchronous() int { return 2 }
