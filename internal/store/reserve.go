package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"orchestrate/internal/queue"

	"github.com/gofrs/flock"
)

// reserveSize is room for a WAL of longWAL frames, which must go into the
// database before anything can be deleted, and for the deleting itself.
const reserveSize = 16 << 20

const reserveSuffix = ".reserve"

func reservePath(database string) string { return realPath(database) + reserveSuffix }

// KeepReserve keeps a file of 16 MiB beside a SQLite database, which a cleanup
// gives up first: to delete takes room in the WAL, and a full disk has none. The
// error says that there is no room for it; then there is no file either. A cleanup
// that is under way keeps it itself.
func KeepReserve(database string) error {
	path := reservePath(database)
	if n, err := size(path); isPostgres(database) || err == nil && n == reserveSize {
		return nil
	}
	lock, err := lockBeside(path, realPath(database))
	if err != nil {
		return noReserve(err)
	}
	if free, err := lock.TryLock(); err != nil || !free {
		return err
	}
	return errors.Join(fillReserve(database), lock.Unlock())
}

// FreeReserve gives the room back, and keeps deliveries from it until keep is
// called, which takes it again: see writer.yield. Nothing is left of that when the
// process dies.
func FreeReserve(ctx context.Context, database string) (keep func() error, err error) {
	keep = func() error { return KeepReserve(database) }
	if isPostgres(database) {
		return keep, nil
	}
	path := reservePath(database)
	lock, err := lockBeside(path, realPath(database))
	if err != nil {
		if n, err := size(path); err == nil && n < 0 {
			return keep, nil // no room for an empty one either
		}
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, maxYield)
	defer cancel()
	if _, err := lock.TryLockContext(waiting, turnPoll); errors.Is(err, context.DeadlineExceeded) {
		return keep, nil // another cleanup has freed it
	} else if err != nil {
		return nil, notLocked(path, err)
	}
	keep = func() error { return errors.Join(fillReserve(database), lock.Unlock()) }
	if err := os.Truncate(path, noteAt); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: free the reserve: %w", queue.ErrUnavailable, err), lock.Unlock())
	}
	return keep, nil
}

// maxYield is for writes that are under way.
const maxYield = 5 * time.Second

// fillReserve is for who holds its lock. It leaves the first byte: see noteAt.
func fillReserve(database string) error {
	path := reservePath(database)
	f, err := openBeside(path, realPath(database), os.O_CREATE|os.O_WRONLY)
	if err == nil {
		// By chance, as some filesystems keep no room for zeros.
		_, err = io.CopyN(io.NewOffsetWriter(f, noteAt), rand.NewChaCha8([32]byte{}), reserveSize-noteAt)
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		return nil
	}
	if gone := os.Remove(path); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return noReserve(err)
}

func noReserve(err error) error {
	return fmt.Errorf("keep a reserve of %d MiB for cleanup: %w", reserveSize>>20, err)
}

// longFull is for how long after it was full a disk is believed to be.
const longFull = time.Hour

var errCleaning = fmt.Errorf("%w: the disk is full, and a cleanup makes room on it", queue.ErrUnavailable)

// yield leaves the reserve to the cleanup that has freed it, where the disk was full:
// deliveries would take it all, and then nothing could be deleted. What is not a
// delivery needs little. done is to be called after the commit; false: wait.
func (w *writer) yield() (done func(), ok bool) {
	full := w.fullAt.Load()
	if full == 0 || queue.Clock().Sub(time.Unix(0, full)) > longFull {
		return func() {}, true
	}
	lock := flock.New(reservePath(w.database), flock.SetFlag(os.O_RDONLY|noFollow))
	free, err := lock.TryRLock()
	return func() { _ = lock.Unlock() }, free || err != nil // nobody has freed what is not there
}
