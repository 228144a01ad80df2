package queue

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDecide(t *testing.T) {
	const tenYears = 10 * 365 * 86_400_000
	const now = Time(1_000_000)
	policy := DefaultRetry()
	no := errors.New("exit 1")
	away := &UnavailableError{Err: errors.New("503")}
	later := &UnavailableError{Err: errors.New("429"), RetryAfter: 2 * time.Minute}
	ordinary := policy
	ordinary.Unavailable.For = 0
	tests := []struct {
		name   string
		job    Job
		policy Retry
		err    error
		want   Settlement
	}{
		{
			"done",
			Job{MaxRetries: 3, RetryCount: 2, CrashCount: 1, DueAt: 5, UnavailableSince: 7, MatchPending: true},
			policy, nil,
			Settlement{Status: StatusCompleted, Ending: EndCompleted, RetryCount: 2, DueAt: 5},
		},
		{
			"first failure",
			Job{MaxRetries: 3},
			policy, no,
			Settlement{Status: StatusFailed, Ending: EndFailed, RetryCount: 1, DueAt: now + 1000, ErrorMessage: "exit 1"},
		},
		{
			"second failure",
			Job{MaxRetries: 3, RetryCount: 1},
			policy, no,
			Settlement{Status: StatusFailed, Ending: EndFailed, RetryCount: 2, DueAt: now + 2000, ErrorMessage: "exit 1"},
		},
		{
			"third failure",
			Job{MaxRetries: 3, RetryCount: 2},
			policy, no,
			Settlement{Status: StatusFailed, Ending: EndFailed, RetryCount: 3, DueAt: now + 4000, ErrorMessage: "exit 1"},
		},
		{
			"retries spent",
			Job{MaxRetries: 3, RetryCount: 3, DueAt: 9},
			policy, no,
			Settlement{Status: StatusDeadLetter, Ending: EndDeadLetter, RetryCount: 3, DueAt: 9, ErrorMessage: "exit 1"},
		},
		{"no retries", Job{}, policy, no, Settlement{Status: StatusDeadLetter, Ending: EndDeadLetter, ErrorMessage: "exit 1"}},
		{
			"permanent",
			Job{MaxRetries: 3},
			policy, fmt.Errorf("run: %w", Permanent("no such repository")),
			Settlement{Status: StatusDeadLetter, Ending: EndDeadLetter, ErrorMessage: "run: no such repository"},
		},
		{
			"a failure ends a streak and resets suspicion",
			Job{MaxRetries: 3, UnavailableSince: 3, CrashCount: 2},
			policy, no,
			Settlement{Status: StatusFailed, Ending: EndFailed, RetryCount: 1, DueAt: now + 1000, ErrorMessage: "exit 1"},
		},
		{
			"away",
			Job{MaxRetries: 3, RetryCount: 1},
			policy, away,
			Settlement{Status: StatusFailed, Ending: EndUnavailable, RetryCount: 1, DueAt: now + 5000, UnavailableSince: now, ErrorMessage: "503"},
		},
		{
			"away again",
			Job{UnavailableSince: now - 5000, DueAt: now},
			policy, away,
			Settlement{Status: StatusFailed, Ending: EndUnavailable, DueAt: now + 10_000, UnavailableSince: now - 5000, ErrorMessage: "503"},
		},
		{
			"away for long",
			Job{UnavailableSince: now - 3_600_000, DueAt: now},
			policy, away,
			Settlement{Status: StatusFailed, Ending: EndUnavailable, DueAt: now + 300_000, UnavailableSince: now - 3_600_000, ErrorMessage: "503"},
		},
		{
			"asked to wait",
			Job{},
			policy, later,
			Settlement{Status: StatusFailed, Ending: EndUnavailable, DueAt: now + 120_000, UnavailableSince: now, ErrorMessage: "429"},
		},
		{
			"asked to wait too long",
			Job{},
			policy, &UnavailableError{Err: errors.New("429"), RetryAfter: 100 * time.Hour},
			Settlement{Status: StatusFailed, Ending: EndUnavailable, DueAt: now + 3_600_000, UnavailableSince: now, ErrorMessage: "429"},
		},
		{
			"away for a day",
			Job{RetryCount: 1, MaxRetries: 3, UnavailableSince: now - 86_400_000, DueAt: now},
			policy, away,
			Settlement{Status: StatusDeadLetter, Ending: EndDeadLetter, RetryCount: 1, DueAt: now, ErrorMessage: "unavailable for 24h0m0s: 503"},
		},
		{
			"away since the clock was ten years behind, or nobody tried",
			Job{UnavailableSince: now - tenYears - 60_000, DueAt: now - tenYears},
			policy, away,
			Settlement{
				Status: StatusFailed, Ending: EndUnavailable, DueAt: now + 300_000, UnavailableSince: now - 43_200_000 - 60_000, ErrorMessage: "503",
			},
		},
		{
			"away since the clock was ahead",
			Job{UnavailableSince: now + tenYears, DueAt: now},
			policy, away,
			Settlement{Status: StatusFailed, Ending: EndUnavailable, DueAt: now + 5000, UnavailableSince: now, ErrorMessage: "503"},
		},
		{
			"away as an ordinary error",
			Job{MaxRetries: 1},
			ordinary, away,
			Settlement{Status: StatusFailed, Ending: EndFailed, RetryCount: 1, DueAt: now + 1000, ErrorMessage: "503"},
		},
		{
			"stopped",
			Job{MaxRetries: 3, RetryCount: 2, CrashCount: 1, DueAt: 5, UnavailableSince: 7, MatchPending: true},
			policy,
			fmt.Errorf("%w: signal: terminated", ErrStopped),
			Settlement{
				Status: StatusPending, Ending: EndStopped, RetryCount: 2, CrashCount: 1, DueAt: 5, UnavailableSince: 7,
				MatchPending: true, ErrorMessage: "stopped: signal: terminated",
			},
		},
		{
			"lease lost",
			Job{RetryCount: 2, DueAt: 5},
			policy, ErrLeaseLost,
			Settlement{Status: StatusPending, Ending: EndLost, RetryCount: 2, DueAt: 5, ErrorMessage: "lease lost"},
		},
		{
			"skipped",
			Job{MatchPending: true},
			policy, errSkip,
			Settlement{Status: StatusCompleted, Ending: EndSkipped, ErrorMessage: Text(errSkip.Error())},
		},
		{
			"what a handler says is cleaned",
			Job{},
			policy, errors.New("\x1b[31mred\x1b[0m\nline"),
			Settlement{Status: StatusDeadLetter, Ending: EndDeadLetter, ErrorMessage: "[31mred[0m line"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.want.FinishedAt = now
			if d := cmp.Diff(test.want, decide(test.job, test.policy, test.err, now, 0)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestDecideKeepsItsPromises over any job, policy and error.
func TestDecideKeepsItsPromises(t *testing.T) {
	kinds := []error{nil, errors.New("x"), Permanent("x"), &UnavailableError{Err: errors.New("x")}, ErrStopped, ErrLeaseLost, errSkip}
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(0, 100).Draw(t, "max")
		j := Job{MaxRetries: limit, RetryCount: rapid.IntRange(0, limit).Draw(t, "count"), CrashCount: rapid.IntRange(0, 2).Draw(t, "crashes")}
		r := DefaultRetry()
		r.Jitter = rapid.Float64Range(0, 1).Draw(t, "jitter")
		r.Factor = rapid.Float64Range(1, 1000).Draw(t, "factor")
		now := Time(rapid.Int64Range(1, 1<<42).Draw(t, "now"))
		s := decide(j, r, rapid.SampledFrom(kinds).Draw(t, "err"), now, rapid.Float64Range(0, 0.999).Draw(t, "dice"))
		if s.RetryCount > j.MaxRetries || s.RetryCount < j.RetryCount {
			t.Fatalf("retry_count %d of %d became %d", j.RetryCount, j.MaxRetries, s.RetryCount)
		}
		if s.Status == StatusFailed && (s.DueAt <= now || s.DueAt > now.Add(2*r.Cap)) {
			t.Fatalf("the retry is due %s from now", s.DueAt.Sub(now))
		}
		if s.Status == StatusProcessing {
			t.Fatal("an attempt that ended is still processing")
		}
	})
}

func TestJitterIsOnlyAdded(t *testing.T) {
	b := Backoff{Base: time.Second, Factor: 2, Cap: time.Hour, Jitter: 0.5}
	for dice, want := range map[float64]time.Duration{0: 4 * time.Second, 0.5: 5 * time.Second, 0.999: 5998 * time.Millisecond} {
		if got := b.wait(3, dice).Truncate(time.Millisecond); got != want {
			t.Errorf("dice %v: got %s, want %s", dice, got, want)
		}
	}
}

func TestAfterCrash(t *testing.T) {
	job := func(crashes int) Job { return Job{Claim: Claim{WorkerID: "w"}, CrashCount: crashes} }
	tests := []struct {
		name   string
		jobs   []Job
		counts []int
		dead   []bool
	}{
		{"all are counted", []Job{job(0), job(0)}, []int{1, 1}, []bool{false, false}},
		{"only the suspect is", []Job{job(0), job(1), job(0)}, []int{0, 2, 0}, []bool{false, false, false}},
		{"the third time is the last", []Job{job(2), job(0)}, []int{3, 0}, []bool{true, false}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for i, s := range AfterCrash(test.jobs, 1) {
				if s.CrashCount != test.counts[i] || (s.Status == StatusDeadLetter) != test.dead[i] {
					t.Errorf("job %d: got %s with crash_count %d, want %d, dead %v", i, s.Status, s.CrashCount, test.counts[i], test.dead[i])
				}
			}
		})
	}
}
