//go:build !chaos

package queue

import "time"

// skew is by how much this machine's wall clock is wrong: in a program built for
// fault tests it is set from outside.
func skew() time.Duration { return 0 }
