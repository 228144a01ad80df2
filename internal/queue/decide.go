package queue

import (
	"errors"
	"fmt"
	"slices"
)

// Settlement is what becomes of a job after an attempt.
type Settlement struct {
	Status           Status
	Ending           Ending
	RetryCount       int
	CrashCount       int
	DueAt            Time
	UnavailableSince Time
	MatchPending     bool
	ErrorMessage     Text
	FinishedAt       Time
	Result           Result
	Version          string
	ConfigHash       string
}

// MaxCrashes is how many dead workers a job may be suspected of.
const MaxCrashes = 3

// decide is the whole policy of what follows an attempt. It is pure: the job as
// it was claimed, the route's policy, what the handler returned, the time, and
// the dice for the jitter, in [0,1).
func decide(j Job, r Retry, err error, now Time, dice float64) Settlement {
	s := Settlement{RetryCount: j.RetryCount, DueAt: j.DueAt, FinishedAt: now, MatchPending: j.MatchPending}
	if err == nil {
		s.Status, s.Ending, s.MatchPending = StatusCompleted, EndCompleted, false
		return s
	}
	s.ErrorMessage = Clean(err.Error())
	var permanent *PermanentError
	var away *UnavailableError
	switch {
	case errors.Is(err, ErrStopped):
		return giveBack(j, EndStopped, s.ErrorMessage, now)
	case errors.Is(err, ErrLeaseLost):
		return giveBack(j, EndLost, s.ErrorMessage, now)
	case errors.Is(err, errSkip):
		s.Status, s.Ending, s.MatchPending = StatusCompleted, EndSkipped, false
	case errors.As(err, &permanent):
		s.Status, s.Ending = StatusDeadLetter, EndDeadLetter
	case errors.As(err, &away) && r.Unavailable.For > 0:
		decideAway(&s, j, r.Unavailable, away, now, dice)
	case j.RetryCount >= j.MaxRetries:
		s.Status, s.Ending = StatusDeadLetter, EndDeadLetter
	default:
		s.Status, s.Ending = StatusFailed, EndFailed
		s.RetryCount++
		s.DueAt = now.Add(r.wait(s.RetryCount, dice))
	}
	return s
}

// errSkip says that a route whose match was left open does not want the event.
var errSkip = errors.New("the route does not want this event")

func decideAway(s *Settlement, j Job, u Unavailable, away *UnavailableError, now Time, dice float64) {
	since := now
	if j.UnavailableSince != 0 {
		// When nobody tried for long, that says little of the other side. A clock
		// that was set while no worker saw it must not end a streak at once, nor
		// keep it from ending.
		gap := now.Sub(j.DueAt)
		since = min(j.UnavailableSince.Add(max(0, gap-u.For/2)), now)
	}
	streak := now.Sub(since)
	if streak >= u.For {
		s.Status, s.Ending = StatusDeadLetter, EndDeadLetter
		s.ErrorMessage = Clean(fmt.Sprintf("unavailable for %s: %s", streak, away.Error()))
		return
	}
	s.Status, s.Ending, s.UnavailableSince = StatusFailed, EndUnavailable, since
	s.DueAt = now.Add(max(u.waitInStreak(streak, dice), min(away.RetryAfter, MaxRetryAfter)))
}

// giveBack returns a job as if it had not been claimed, except that the claim's
// history is kept.
func giveBack(j Job, how Ending, why Text, now Time) Settlement {
	return Settlement{
		Status: StatusPending, Ending: how, ErrorMessage: why, FinishedAt: now,
		RetryCount: j.RetryCount, CrashCount: j.CrashCount, DueAt: j.DueAt,
		UnavailableSince: j.UnavailableSince, MatchPending: j.MatchPending,
	}
}

// GiveBack settles a claim that nobody runs, without spending a retry: its
// result was lost on the way, or its worker lost the lease.
func GiveBack(j Job, why string, now Time) Settlement {
	return giveBack(j, EndLost, Clean(why), now)
}

// AfterCrash settles the claims of one dead worker, in their order. Only the
// suspect that was running is counted, if there was one, else every job of that
// worker: a poison job must not condemn its neighbours.
func AfterCrash(jobs []Job, now Time) []Settlement {
	suspect := slices.ContainsFunc(jobs, func(j Job) bool { return j.CrashCount > 0 })
	settled := make([]Settlement, len(jobs))
	for i, j := range jobs {
		s := giveBack(j, EndCrashed, Clean("worker "+string(j.WorkerID)+" died"), now)
		if j.CrashCount > 0 || !suspect {
			s.CrashCount++
		}
		if s.CrashCount >= MaxCrashes {
			s.Status = StatusDeadLetter
			s.ErrorMessage = Clean(fmt.Sprintf("%d workers died while running it, the last one %s", s.CrashCount, j.WorkerID))
		}
		settled[i] = s
	}
	return settled
}
