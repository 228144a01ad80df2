package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"orchestrate/internal/queue"
)

// After a failed fsync the kernel holds in its page cache what it does not write
// any more: the next fsync succeeds, and the disk has less than every reader
// sees. So nobody goes on. The process that was told stops reading and writing;
// the others, which share its page cache but may never be told, see the mark it
// leaves beside the database; and who opens the database next waits until it is
// alone, then writes all of the WAL once more.

// markSuffix names the mark. It need not outlive a loss of power, which empties
// the page cache, too.
const markSuffix = ".sync-failed"

// mark tells the other processes. Where it can't be made, they are told by the
// kernel, if at all.
func mark(database string) {
	database = realPath(database)
	_ = writeBeside(database+markSuffix, database, "a sync of this database failed: its next user mends it and removes this file\n")
}

func isMarked(database string) bool {
	_, err := os.Lstat(database + markSuffix)
	return err == nil
}

// trusted is ErrBroken after a failed sync of this process or another, and
// ErrDamaged after damage was met, or files were taken away.
func (w *writer) trusted() error {
	select {
	case <-w.broken:
		return w.why
	default:
	}
	err := w.inPlace()
	if isMarked(w.database) {
		err = queue.ErrBroken
	}
	if err == nil {
		return nil
	}
	w.breakWith(err)
	<-w.broken
	return w.why
}

// openFiles are those that a process has open, by their suffixes.
type openFiles map[string]fs.FileInfo

// remember is called once SQLite has opened them: while it has, it neither removes
// nor replaces one.
func (w *writer) remember() {
	w.opened = openFiles{}
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(w.database + suffix); err == nil {
			w.opened[suffix] = info
		}
	}
}

// inPlace is ErrDamaged where somebody has removed or replaced a file that is
// open: what is written into that, nobody finds again.
func (w *writer) inPlace() error {
	for suffix, was := range w.opened {
		now, err := os.Stat(w.database + suffix)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(was, now) {
			return fmt.Errorf("%w: %s was removed or replaced while it was open; stop what uses the database, and put the file back or restore a backup: orchestrate restore BACKUP",
				queue.ErrDamaged, w.database+suffix)
		}
	}
	return nil
}

// closeTrusted closes a database at the end of what came to err, unless a sync of
// it failed or it is damaged: as in SQLite.Close, it is then left to the end of the
// process.
func closeTrusted(db *sql.DB, database string, err error) error {
	if database = realPath(database); isMarked(database) || keepsLog(database, classify(err)) {
		return err
	}
	return errors.Join(err, db.Close())
}

// keepsLog: nothing may be closed, as to close the last connection of a database is
// a checkpoint, after which its log is removed. An empty log may go.
func keepsLog(database string, err error) bool {
	log, statErr := size(database + "-wal")
	return errors.Is(err, queue.ErrBroken) || errors.Is(err, queue.ErrDamaged) && (log > 0 || statErr != nil)
}

// settleWAL makes the database whole on disk: what a dead process wrote but had
// not synced, or could not, is in the page cache alone, and must not be built on.
// A process that will write does it after every crash, any other after a failed
// sync. Beside living processes it is not needed unless the mark is there; then
// they are about to end, and it waits for that.
func settleWAL(ctx context.Context, o Options) error {
	o.Database = realPath(o.Database)
	wal, err := os.Stat(o.Database + "-wal")
	crashed := o.Create && err == nil && wal.Size() > 0
	if !crashed && !isMarked(o.Database) {
		return nil
	}
	wait := firstWait
	for deadline := queue.Clock().Add(o.Timeout); ; {
		alone, err := rewriteAlone(ctx, o.Database)
		switch {
		case err != nil:
			return err
		case alone:
			return unmark(o.Database)
		case !isMarked(o.Database):
			return nil
		case queue.Clock().After(deadline):
			return fmt.Errorf("%w: a sync failed, and processes that saw it still have the database open; stop all, then start again",
				queue.ErrUnavailable)
		}
		if !pause(ctx, &wait) {
			return ctx.Err()
		}
	}
}

func unmark(database string) error {
	err := os.Remove(database + markSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// rewriteAlone writes all of the WAL again and moves it into the database, if
// nobody else has that open. In exclusive mode SQLite reads the WAL from its
// start, whatever a living process thinks is in the database already.
//
// Moving it is not enough: a loss of power in between would leave a database
// that is newer than the part of the WAL that the disk has, and SQLite would
// take the older pages from there.
func rewriteAlone(ctx context.Context, database string) (alone bool, err error) {
	if _, err := os.Stat(database); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	db, err := sql.Open("sqlite", dsn(database, 0, "locking_mode(EXCLUSIVE)"))
	if err != nil {
		return false, err
	}
	defer func() {
		if err == nil { // it has no log, or was busy and not opened
			err = db.Close()
		} else {
			err = closeTrusted(db, database, err)
		}
	}()
	conn, err := db.Conn(ctx)
	if err == nil {
		defer func() { _ = conn.Close() }() // returns it to the pool
		_, err = one[int64](ctx, conn, "SELECT count(*) FROM sqlite_master")
	}
	if isBusy(err) {
		return false, nil
	}
	if err == nil {
		err = rewrite(database + "-wal")
	}
	if err == nil {
		_, err = emptyWAL(ctx, conn)
	}
	if err == nil {
		err = removeIndex(database)
	}
	return err == nil, err
}

// rewrite makes the kernel write a file that it believes to be clean.
func rewrite(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // G304: of the database that the operator names
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return syncFailure(f.Sync())
		}
		if _, err := f.WriteAt(buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
}

func syncFailure(err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", queue.ErrBroken, err)
	}
	return nil
}

// keepNames syncs the directory, and so the name of the WAL: SQLite does so, too,
// but tells nobody when that fails.
func keepNames(database string) error {
	err := syncDir(filepath.Dir(database))
	if runtime.GOOS == "windows" || isNoSync(err) {
		return nil
	}
	return syncFailure(err)
}

// isNoSync: this user may only enter the directory, or its filesystem doesn't sync
// directories.
func isNoSync(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported)
}
