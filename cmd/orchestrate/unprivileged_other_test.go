//go:build !unix

package main

import "github.com/rogpeppe/go-internal/testscript"

// unprivileged runs a command as it is: there is no user who may do everything.
func unprivileged(ts *testscript.TestScript, neg bool, args []string) { exitCode(ts, neg, args) }
