package handler

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"orchestrate/internal/queue"
)

// attemptPrefix marks what Sweep may remove.
const attemptPrefix = "attempt-"

type lockMode int

const (
	lockShared lockMode = iota // waits
	lockAlone                  // waits
	lockTry                    // alone, or an error at once
)

// attemptDir holds the files of a running attempt, and a link to its cgroup. It
// is locked for as long as the attempt runs, and the kernel frees the lock when
// the worker dies: that tells what a dead worker left behind, in whatever
// process, without asking a database who lives.
type attemptDir struct {
	path   string
	lock   io.Closer
	cgroup cgroup
}

// newAttemptDir makes a directory below work, 0700, with the payload in a file,
// 0600. The shared lock on work keeps Sweep out until the new directory has its
// own.
func newAttemptDir(work string, payload []byte) (*attemptDir, error) {
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	if err := inheritOwner(work); err != nil {
		return nil, err
	}
	sweepers, err := lock(work, lockShared)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sweepers.Close() }() // a lock: nothing was written
	d := &attemptDir{}
	if d.path, err = os.MkdirTemp(work, attemptPrefix); err != nil {
		return nil, err
	}
	if d.lock, err = lock(d.path, lockAlone); err != nil {
		return nil, errors.Join(err, os.Remove(d.path))
	}
	if err := os.WriteFile(d.payload(), payload, 0o600); err != nil {
		return nil, errors.Join(err, d.remove(queue.Clock()))
	}
	return d, nil
}

func (d *attemptDir) payload() string { return filepath.Join(d.path, "payload.json") }

func (d *attemptDir) stdin() string { return filepath.Join(d.path, "stdin") }

func (d *attemptDir) link() string { return filepath.Join(d.path, "cgroup") }

// remove ends what is in the cgroup first. What has not ended at the deadline is
// left to Sweep, with the directory, which tells where it is.
func (d *attemptDir) remove(deadline time.Time) error {
	if err := d.cgroup.remove(deadline); err != nil {
		return errors.Join(err, d.lock.Close())
	}
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}

// Sweep removes what dead workers left below work: the directories of their
// attempts, and on Linux first their cgroups and the processes that still run
// for them, which a rescued job must not run beside. It is safe beside live
// workers, at any time. Call it at start and after a rescue.
func Sweep(work string) error {
	work, err := filepath.Abs(work)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	attempts, err := lock(work, lockAlone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no attempt was ever made
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	defer func() { _ = attempts.Close() }() // a lock: nothing was written
	entries, err := os.ReadDir(work)
	errs := []error{err}
	deadline := queue.Clock().Add(cgroupDelay) // of all together: whoever sweeps has a lease to keep
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), attemptPrefix) {
			continue
		}
		d := attemptDir{path: filepath.Join(work, e.Name())}
		if d.lock, err = lock(d.path, lockTry); err != nil {
			continue // its worker lives
		}
		d.cgroup = linkedCgroup(&d)
		killLeftovers(d.payload())
		errs = append(errs, d.remove(deadline))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep %s: %w", work, err)
	}
	return nil
}
