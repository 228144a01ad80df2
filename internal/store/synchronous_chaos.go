//go:build chaos

package store

import (
	"fmt"
	"os"
	"slices"
)

// SynchronousVariable sets what the commits of one process wait for: OFF, NORMAL
// or FULL.
const SynchronousVariable = "ORCHESTRATE_CHAOS_SYNCHRONOUS"

func synchronous() int {
	v := os.Getenv(SynchronousVariable)
	if v == "" {
		return 2
	}
	level := slices.Index([]string{"OFF", "NORMAL", "FULL"}, v)
	if level < 0 {
		panic(fmt.Sprintf("%s: %q is none of OFF, NORMAL, FULL", SynchronousVariable, v))
	}
	return level
}
