//go:build chaos

package queue

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// SkewVariable sets the wall clock of one process wrong, by a duration such as
// -1h.
const SkewVariable = "ORCHESTRATE_CHAOS_SKEW"

var skew = sync.OnceValue(func() time.Duration {
	v := os.Getenv(SkewVariable)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", SkewVariable, err))
	}
	return d
})
