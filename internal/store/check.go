package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"orchestrate/internal/queue"
)

const (
	// checkEvery is less than a day: a daily cron job is some seconds early at times.
	checkEvery = 20 * time.Hour
	// checkFor bounds a check. While SQLite looks at the structure the WAL grows.
	checkFor = time.Minute
	// checkBodiesFor is what bodies get at least, also where nothing is left of that.
	checkBodiesFor = 10 * time.Second

	checkedSuffix = ".checked"
)

// Check implements queue.Store. First the structure is checked, then, in what is
// left of its time, bodies against their digests, from where the last check
// ended. A file beside the database keeps that, and by its time when that was: also
// of a check that was broken off, since the next would come no further.
func (s *SQLite) Check(ctx context.Context) (queue.Checked, error) {
	return s.checkWithin(ctx, checkFor)
}

func (s *SQLite) checkWithin(ctx context.Context, most time.Duration) (done queue.Checked, err error) {
	stamp := realPath(s.database) + checkedSuffix
	info, err := os.Stat(stamp)
	if age := queue.Clock().Sub(modTime(info, err)); age >= 0 && age < checkEvery {
		return queue.Checked{State: queue.CheckNotDue}, nil
	}
	end := queue.Clock().Add(most)
	if done.State, err = s.checkStructure(ctx, end); err != nil {
		return queue.Checked{}, fmt.Errorf("check %s: %w", s.database, err)
	}
	limited, cancel := context.WithTimeout(ctx, max(end.Sub(queue.Clock()), checkBodiesFor))
	defer cancel()
	var last int64
	done.DamagedPayloads, last, err = s.checkSomeBodies(limited, lastChecked(stamp))
	if err != nil && limited.Err() == nil {
		return queue.Checked{}, fmt.Errorf("check %s: %w", s.database, err)
	}
	// Where it can't be kept, as on a full disk, the next one begins here again.
	_ = writeBeside(stamp, realPath(s.database), strconv.FormatInt(last, 10)+"\n")
	return done, nil
}

func (s *SQLite) checkStructure(ctx context.Context, end time.Time) (queue.CheckState, error) {
	limited, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	err := problems(limited, s.reads, "PRAGMA quick_check("+digits(maxFound)+")")
	switch {
	case err == nil:
		return queue.CheckPassed, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, queue.ErrDamaged) && s.WhyBroken() == nil:
		return "", fmt.Errorf("%w%s", err, restoreIt)
	case limited.Err() != nil && !errors.Is(err, queue.ErrDamaged):
		return queue.CheckUnfinished, nil
	}
	return "", err
}

// modTime is the zero time where there is no file.
func modTime(info os.FileInfo, err error) (t time.Time) {
	if err == nil {
		t = info.ModTime()
	}
	return t
}

// lastChecked is 0, the start, where that is not known.
func lastChecked(stamp string) int64 {
	b, _ := os.ReadFile(stamp) //nolint:gosec // G304: beside the database
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// checkSomeBodies goes on until all were compared, or ctx ends. It returns where
// the next check begins.
func (s *SQLite) checkSomeBodies(ctx context.Context, after int64) (found []int64, last int64, err error) {
	found = []int64{}
	for more := true; more; {
		var differ []int64
		differ, last, more, err = checkBodies(ctx, s.reads, after)
		if err != nil {
			return found, after, err
		}
		found, after = append(found, differ...), last
	}
	return found, 0, nil
}
