//go:build chaos

package queue

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// SkewVariable sets the wall clock of one process wrong, by a duration such as
// -1h, or by the one that a file holds at the moment, to be set while it runs.
const SkewVariable = "ORCHESTRATE_CHAOS_SKEW"

var skewed = sync.OnceValue(func() func() time.Duration {
	v := os.Getenv(SkewVariable)
	if strings.HasPrefix(v, "/") {
		return func() time.Duration {
			text, err := os.ReadFile(v) //nolint:gosec // a fault test's
			if err != nil {
				panic(fmt.Sprintf("%s: %v", SkewVariable, err))
			}
			return parseSkew(strings.TrimSpace(string(text)))
		}
	}
	d := parseSkew(v)
	return func() time.Duration { return d }
})

func parseSkew(v string) time.Duration {
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", SkewVariable, err))
	}
	return d
}

func skew() time.Duration { return skewed()() }
