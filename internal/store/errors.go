package store

import (
	"database/sql"
	"errors"
	"fmt"
	"os"

	"orchestrate/internal/queue"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// classify gives a driver's error its meaning for the domain. Matching is by
// code, never by text.
func classify(err error) error {
	var e *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, queue.ErrUnavailable), errors.Is(err, queue.ErrBroken), errors.Is(err, queue.ErrDamaged), errors.Is(err, queue.ErrSchema):
		return err // it has its meaning
	case isAway(err): // a socket that does not exist is no file of ours
		return classifyServer(err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, os.ErrNotExist), errors.Is(err, sql.ErrConnDone):
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	case !errors.As(err, &e):
		if meant := classifyServer(err); meant != nil {
			return meant
		}
		return err
	case e.Code() == sqlite3.SQLITE_CONSTRAINT_TRIGGER: // we have no others
		return fmt.Errorf("%w: %w; see: orchestrate status", queue.ErrUnavailable, err)
	case isSyncFailure(e):
		return fmt.Errorf("%w: %w", queue.ErrBroken, err)
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_PROTOCOL:
		return fmt.Errorf("%w: %w%s", queue.ErrUnavailable, err, nextStep(e))
	case sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%w: %w%s", queue.ErrDamaged, err, nextStep(e))
	}
	return err
}

// nextStep is what an operator can do about it.
func nextStep(e *sqlite.Error) string {
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return "; another process holds its lock: try again, or wait longer with --timeout"
	case sqlite3.SQLITE_FULL:
		return "; make room on its disk, as with: orchestrate cleanup"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return "; may this user read and write the file and its directory?"
	case sqlite3.SQLITE_NOTADB:
		return "; name another file with --database; or, if it was ours, its header is damaged" + restoreIt
	case sqlite3.SQLITE_CORRUPT:
		return restoreIt
	}
	return ""
}

const restoreIt = "; stop what uses it, keep its files, and restore a backup: orchestrate restore BACKUP"

// isDamage: what the file holds can't be what SQLite wrote.
func isDamage(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CORRUPT || e.Code()&0xff == sqlite3.SQLITE_NOTADB)
}

// isSyncFailure: after a failed fsync the kernel may have dropped the dirty
// pages and report success the next time, so nothing cached can be trusted.
func isSyncFailure(e *sqlite.Error) bool {
	switch e.Code() {
	case sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC:
		return true
	}
	return false
}

// isDiskFailure: the disk does not take what is written, full or read-only or
// worse, until somebody mends that.
func isDiskFailure(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return true
	}
	return false
}

func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}
