package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"orchestrate/internal/queue"

	"github.com/gofrs/flock"
)

// Each process that has a database open holds a lock beside it, shared with the
// others; who replaces the files holds it alone. SQLite's own locks can't do that:
// they are on a file, and whoever opened the one that is being replaced would
// wait for its lock, and then go on with that file and the log of the new one.

// lockTick is how often a lock that is taken is tried again.
const lockTick = 25 * time.Millisecond

func (o Options) useLock() (*flock.Flock, error) {
	database := realPath(o.Database)
	return lockBeside(database+lockSuffix, database)
}

// realPath follows links, as SQLite does to find the files beside a database.
func realPath(database string) string {
	if path, err := filepath.EvalSymlinks(database); err == nil {
		return path
	}
	return database
}

// enter keeps the files of a database from being replaced until leave is called.
// It waits while they are. Whoever comes when nobody is there looks at what the
// last ones left.
func enter(ctx context.Context, o Options) (leave func(), err error) {
	if o.Create {
		if err := makeStateDir(o); err != nil {
			return nil, err
		}
	}
	lock, err := o.useLock()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(o.Timeout, time.Second))
	defer cancel()
	for wait := lockTick; ; {
		if err := firstIn(ctx, o, lock); err != nil {
			return nil, err
		}
		if _, err := lock.TryRLockContext(ctx, lockTick); err != nil {
			return nil, o.notLocked(lock, err)
		}
		left, err := unfinished(o.Database)
		if err == nil && left == "" {
			return func() { _ = lock.Unlock() }, nil // the kernel would do it, too
		}
		if err := errors.Join(err, lock.Unlock()); err != nil { // a restore died in between
			return nil, o.notLocked(lock, err)
		}
		if !pause(ctx, &wait) {
			return nil, o.notLocked(lock, ctx.Err())
		}
	}
}

// firstIn ends what a restore had begun, and looks for what is missing, if nobody
// else has the database open.
func firstIn(ctx context.Context, o Options, lock *flock.Flock) error {
	alone, err := lock.TryLock()
	if err != nil {
		return o.notLocked(lock, err)
	}
	if !alone {
		return nil
	}
	if _, err = finishRestore(o.Database); err == nil {
		err = inspect(o.Database)
	}
	return errors.Join(err, lock.Unlock())
}

func (o Options) notLocked(lock *flock.Flock, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: another process holds %s: it is the first to open the database, or orchestrate restore; try again, or with more --timeout",
			queue.ErrUnavailable, lock.Path())
	}
	return notLocked(lock.Path(), err)
}

func makeStateDir(o Options) error {
	if err := os.MkdirAll(filepath.Dir(o.Database), 0o700); err != nil {
		return fmt.Errorf("%w: create the state directory: %w", queue.ErrUnavailable, err)
	}
	return nil
}

// patience is how long a restore waits for commands that are about to end.
const patience = time.Second

// enterAlone is ErrRefused while any process has the database open.
func enterAlone(ctx context.Context, o Options) (leave func(), err error) {
	lock, err := o.useLock()
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = lock.TryLockContext(waiting, lockTick)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: a process has %s open; stop serve, process and what else uses it, then run the same command again",
			queue.ErrRefused, o.Database)
	case err != nil:
		return nil, errors.Join(context.Cause(ctx), o.notLocked(lock, err))
	}
	return func() { _ = lock.Unlock() }, nil
}

// nameTime is how a moment is written into the name of a file.
const nameTime = "20060102T150405.000Z"

// unfinished is when the restore began whose new database is whole on disk and not
// in its place yet; empty: there is none. It has written that into the lock, which
// it held alone: what merely has the name of a new database is a file like any other.
func unfinished(database string) (at string, err error) {
	database = realPath(database)
	f, err := openBeside(database+lockSuffix, database, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, len(nameTime))
	if _, err = f.ReadAt(b, noteAt); errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.Trim(string(b), "\x00"), err
}

// noteAt is where that stands: Windows keeps the first byte of a lock from all
// who don't hold it.
const noteAt = 1

// noteUnfinished has it on disk; empty: it is finished.
func noteUnfinished(database, at string) error {
	f, err := openBeside(database+lockSuffix, database, os.O_WRONLY)
	if err != nil {
		return err
	}
	b := make([]byte, len(nameTime))
	copy(b, at)
	_, err = f.WriteAt(b, noteAt)
	return errors.Join(err, f.Sync(), f.Close())
}

// inspect is ErrDamaged where files of a database are missing, or its log was
// cut off. SQLite would go on with what there is, without a word, and delete the
// rest. Nobody may have the database open.
func inspect(database string) error {
	database = realPath(database)
	main, err := size(database)
	if err != nil {
		return err
	}
	log, err := size(database + "-wal")
	if err != nil {
		return err
	}
	index, err := size(database + "-shm")
	switch {
	case err != nil:
		return err
	case main <= 0 && log > 0:
		return damaged(database, "the file is missing or empty, but its log is there, %s-wal", database)
	case main > 0 && log < 0 && index >= 0:
		// The index is the last to be made, and the first to be removed.
		return damaged(database, "its log is missing, %s-wal, with every delivery since it was last moved into the database; put it back if you have it", database)
	case log > 0:
		if err := checkHeader(database); err != nil {
			return err
		}
		return inspectLog(database)
	}
	return nil
}

// checkHeader is ErrDamaged where a log lies beside a file that is not the database
// it belongs to: SQLite would move it in there, and then remove it. The mark is in
// the file since before it had a log.
func checkHeader(database string) (err error) {
	f, err := os.Open(database) //nolint:gosec // G304: the operator names it
	if err != nil {
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const at = 68 // sqlite.org/fileformat.html
	var head [at + 4]byte
	if _, err := io.ReadFull(f, head[:]); ended(err) != nil {
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	}
	if binary.BigEndian.Uint32(head[at:]) != applicationID {
		return damaged(database, "it is no database of this program, but a log is there, %s-wal, which may hold what was acknowledged", database)
	}
	return nil
}

// size is -1 where there is no file.
func size(path string) (int64, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	}
	return info.Size(), nil
}

// damaged is ErrDamaged where the log is what is wrong, and says what can be done.
func damaged(database, format string, a ...any) error {
	return fmt.Errorf("%w: %s; stop what uses it, and either restore a backup, orchestrate restore BACKUP, or go on with what can be read of it, orchestrate restore %s; both keep the files that are there",
		queue.ErrDamaged, fmt.Sprintf(format, a...), database)
}
