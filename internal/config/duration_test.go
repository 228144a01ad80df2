package config

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "30m": 30 * time.Minute, "12h": 12 * time.Hour, "30d": 720 * time.Hour,
		"2w": 336 * time.Hour, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond,
		"1w2d3h4m5s6ms": 219*time.Hour + 4*time.Minute + 5*time.Second + 6*time.Millisecond,
		"0s":            0, "0d0s": 0, "007s": 7 * time.Second, "100m": 100 * time.Minute,
		"106751d": 106751 * 24 * time.Hour, "9223372036854ms": math.MaxInt64 / time.Millisecond * time.Millisecond,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
}

func TestParseDurationRefuses(t *testing.T) {
	for s, why := range map[string]string{
		"": "empty", "30": `add a unit to "30"`, "0": `add a unit to "0"`, "1h30": `add a unit to "30"`,
		"30x": `no unit "x"`, "5us": `no unit "us"`, "1M": "whole numbers and units only", "1mo": `no unit "mo"`, "-1d": "it can't be negative",
		"1d-1h": "it can't be negative", "+1d": "a number is missing", "d": "a number is missing", "1.5h": "whole numbers and units only",
		"1 h": "whole numbers and units only", " 1h": "a number is missing", "1h ": "a number is missing", "30D": "whole numbers and units only",
		"30m1h": "units go from large to small, each once", "1h1h": "units go from large to small, each once",
		"106752d": "longer than 292 years", "99999999999999999999s": "longer than 292 years",
		"106751d24h": "longer than 292 years", "٣s": "a number is missing", "1h\x00": "a number is missing",
	} {
		got, err := ParseDuration(s)
		if err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", s, got)
			continue
		}
		want := quote(s) + " is not a duration: " + why + "; use 90s, 30m, 12h, 30d"
		if err.Error() != want || got != 0 {
			t.Errorf("ParseDuration(%q) = %v\n got %s\nwant %s", s, got, err, want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute, "1s500ms": 1500 * time.Millisecond, "14d": 336 * time.Hour,
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestDurationFlag(t *testing.T) {
	d := time.Minute
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.Var((*DurationValue)(&d), "timeout", "")
	if usage := fs.FlagUsages(); !strings.Contains(usage, "--timeout duration") || !strings.Contains(usage, "(default 1m)") {
		t.Errorf("usage = %s", usage)
	}
	if err := fs.Parse([]string{"--timeout=2d"}); err != nil || d != 48*time.Hour {
		t.Errorf("parse 2d: %v, %v", d, err)
	}
	if err := fs.Parse([]string{"--timeout=30"}); err == nil || d != 48*time.Hour {
		t.Errorf("parse 30: %v, %v; want an error and no change", d, err)
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"30d", "2w", "1d12h", "30", "-1d", "30x", "1.5h", "9223372036854775807ms", "1w2d3h4m5s6ms", "0s", "1h ", "µs"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			if d != 0 || strings.ContainsFunc(err.Error(), isControl) {
				t.Errorf("ParseDuration(%q) = %v, %q", s, d, err)
			}
			return
		}
		if d < 0 {
			t.Errorf("ParseDuration(%q) = %v, which is negative", s, d)
		}
		if again, err := ParseDuration(FormatDuration(d)); err != nil || again != d {
			t.Errorf("%q is %v, written %s, read %v, %v", s, d, FormatDuration(d), again, err)
		}
		// What Go reads in the same way must be the same.
		if std, err := time.ParseDuration(s); err == nil && std != d {
			t.Errorf("ParseDuration(%q) = %v, time.ParseDuration: %v", s, d, std)
		}
	})
}
