package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var units = []struct {
	name string
	size time.Duration
}{{"w", 7 * day}, {"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}}

// ParseDuration reads whole numbers with units, from large to small, each unit
// once: 90s, 1h30m, 30d, 2w, 500ms. A number without a unit is refused, 0 too:
// what it would mean differs from program to program. So are signs, fractions
// and blanks, and more than time.Duration holds (292 years). A day has 24
// hours.
func ParseDuration(s string) (time.Duration, error) {
	var sum time.Duration
	rest, from := s, 0
	for rest != "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		number, tail := rest[:digits], rest[digits:]
		name := tail[:len(tail)-len(strings.TrimLeft(tail, "abcdefghijklmnopqrstuvwxyz"))]
		i := unit(name)
		if why := misread(number, name, tail, i, from); why != "" {
			return 0, notDuration(s, why)
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > int64((math.MaxInt64-sum)/units[i].size) {
			return 0, notDuration(s, "longer than 292 years")
		}
		sum += time.Duration(n) * units[i].size
		rest, from = tail[len(name):], i+1
	}
	if s == "" {
		return 0, notDuration(s, "empty")
	}
	return sum, nil
}

func unit(name string) int {
	for i, u := range units {
		if u.name == name {
			return i
		}
	}
	return -1
}

// misread tells what is wrong with one number and its unit; "" if nothing is.
func misread(number, name, tail string, i, from int) string {
	switch {
	case number == "" && strings.HasPrefix(tail, "-"):
		return "it can't be negative"
	case number == "":
		return "a number is missing"
	case tail == "":
		return "add a unit to " + quote(number)
	case name == "":
		return "whole numbers and units only"
	case i < 0:
		return "no unit " + quote(name)
	case i < from:
		return "units go from large to small, each once"
	}
	return ""
}

func notDuration(s, why string) error {
	return fmt.Errorf("%s is not a duration: %s; use 90s, 30m, 12h, 30d", quote(s), why)
}

// FormatDuration writes what ParseDuration reads, to the millisecond.
func FormatDuration(d time.Duration) string {
	var b strings.Builder
	for _, u := range units[1:] { // 14d is plainer than 2w
		if n := d / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.size
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// DurationValue is a flag that ParseDuration reads.
type DurationValue time.Duration

// Set implements pflag.Value.
func (d *DurationValue) Set(s string) error {
	v, err := ParseDuration(s)
	if err == nil {
		*d = DurationValue(v)
	}
	return err
}

func (d *DurationValue) String() string { return FormatDuration(time.Duration(*d)) }

// Type implements pflag.Value.
func (d *DurationValue) Type() string { return "duration" }
