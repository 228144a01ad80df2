package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"orchestrate/internal/queue"

	"github.com/pressly/goose/v3"
)

// RestoreOptions say which database to replace, and by what.
type RestoreOptions struct {
	Options
	// File is a backup, or any database of ours that nobody has open, with the log
	// beside it if it has one; also the one that is to be replaced.
	File     string
	Progress func(doing string, n int64)
}

// Restored is what a restore did.
type Restored struct {
	Snapshot
	Kept      string `json:"kept"`       // the name that the present database has now; empty: there was none
	TakenBack int64  `json:"taken_back"` // jobs that ran when the backup was made, pending again
	// Lost says what was missing of File itself; empty: nothing.
	Lost string `json:"lost"`
}

// Restore replaces a SQLite database that no process has open. The new one is
// made and checked under another name; the present one is renamed, with the
// files beside it. From the moment at which the new one is whole on disk, and has
// its name, whoever opens the database finishes what a restore that died had begun:
// there is the old one or the new one, never parts of both.
//
// ErrInvalid on PostgreSQL; ErrNotFound where there is no such file; ErrRefused
// while a process has either open; ErrDamaged where the file is; ErrSchema where
// it is newer than this program.
func Restore(ctx context.Context, o RestoreOptions) (done Restored, err error) {
	if isPostgres(o.Database) {
		return done, fmt.Errorf("%w: %s is on PostgreSQL, which has its own tools: pg_restore or psql reads what pg_dump wrote",
			queue.ErrInvalid, Shown(o.Database))
	}
	o.Options = o.withDefaults()
	useOFDLocks(ctx, o.Log)
	if err := errors.Join(checkName(realPath(o.Database)), checkName(realPath(o.File))); err != nil {
		return done, err
	}
	if n, err := size(realPath(o.File)); err != nil || n < 0 {
		return done, errors.Join(err, fmt.Errorf("backup %s: %w", o.File, queue.ErrNotFound))
	}
	if err := makeStateDir(o.Options); err != nil {
		return done, err
	}
	o.Database = realPath(o.Database)
	leave, err := enterAlone(ctx, o.Options)
	if err != nil {
		return done, err
	}
	defer leave()
	if _, err := finishRestore(o.Database); err != nil {
		return done, err
	}
	lastID, err := o.lastUser(ctx)
	if err != nil {
		return done, err
	}
	next := o.Database + restoringSuffix
	if err := removeDatabase(next); err != nil { // of one that died
		return done, err
	}
	defer func() { err = errors.Join(err, removeDatabase(next)) }()
	if err := o.fetch(ctx, next, &done); err != nil {
		return done, err
	}
	if err := o.prepare(ctx, next, lastID, &done); err != nil {
		return done, fmt.Errorf("restore %s: %w", o.File, err)
	}
	done.Kept, err = o.commit(ctx, next, &done)
	return done, err
}

// lastUser refuses where another program, which does not know of our lock, has
// the database open: when it ends it may remove the log of the new one. Else it
// tells the last id that was given to an event, as far as it can be read. A
// database that is not whole is left as it is: to close it changes it.
func (o RestoreOptions) lastUser(ctx context.Context) (lastID int64, err error) {
	if n, err := size(o.Database); err != nil || n <= 0 {
		return 0, err
	}
	used := fmt.Errorf("%w: another program has %s open; stop it, then run the same command again", queue.ErrRefused, o.Database)
	if locked, err := isOpenElsewhere(o.Database); err != nil || locked {
		return 0, cmp.Or(err, used)
	}
	options := dsn(o.Database, o.Timeout, "locking_mode(EXCLUSIVE)") + "&mode=rw"
	whole := inspect(o.Database) == nil && settleWAL(ctx, o.Options) == nil // not even after a failed sync is it changed
	if !whole {
		options = "file:" + dsnPath(o.Database) + "?mode=ro&immutable=1"
	}
	db, err := sql.Open("sqlite", options)
	if err != nil {
		return 0, err
	}
	db.SetMaxOpenConns(1)
	lastID, err = one[int64](ctx, db, sqliteDialect.lastID)
	switch {
	case isBusy(err):
		err = used
	case !whole || err != nil:
		err = nil // what is wrong with it is why it is replaced
	default:
		err = removeIndex(o.Database)
	}
	return lastID, errors.Join(err, db.Close())
}

// removeIndex is for an exclusive connection: that has an index of the log of its
// own, and when it is closed it would leave the one of a process that died, without
// the log.
func removeIndex(database string) error {
	err := os.Remove(database + "-shm")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fetch copies the file, and its log. It must be no other process'.
func (o RestoreOptions) fetch(ctx context.Context, to string, done *Restored) error {
	file := realPath(o.File)
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is no file", queue.ErrInvalid, o.File)
	}
	if n, _ := size(file + "-journal"); n > 0 {
		return fmt.Errorf("%w: %s-journal is there: %s is not whole without it; back it up as a whole: orchestrate backup", queue.ErrRefused, o.File, o.File)
	}
	present, err := os.Stat(o.Database)
	if isPresent := err == nil && os.SameFile(info, present); !isPresent {
		unlock, err := lockSource(file)
		if err != nil {
			return err
		}
		defer unlock()
	}
	if err := inspect(file); err != nil {
		done.Lost = err.Error()
	}
	for _, suffix := range []string{"", "-wal"} {
		err := copyFile(ctx, file+suffix, to+suffix, o.Progress)
		if err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// lockSource is ErrRefused where a process has a database open that is to be
// copied. A backup has no lock beside it.
func lockSource(file string) (unlock func(), err error) {
	if n, err := size(file + lockSuffix); err != nil || n < 0 {
		return func() {}, err
	}
	lock, err := Options{Database: file}.useLock()
	if err != nil {
		return nil, err
	}
	free, err := lock.TryLock()
	if err == nil && !free {
		err = fmt.Errorf("%w: a process has %s open; copy it with orchestrate backup --database %s, and restore that", queue.ErrRefused, file, file)
	}
	return func() { _ = lock.Unlock() }, err
}

// copyFile copies into a new file, for its user alone, and has it on disk.
func copyFile(ctx context.Context, from, to string, progress func(string, int64)) (err error) {
	in, err := os.Open(from) //nolint:gosec // G304: the operator names it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // G304: beside the database
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	const chunk = 4 << 20
	for n := int64(chunk); n == chunk; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if n, err = io.CopyN(out, in, chunk); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if at, err := in.Seek(0, io.SeekCurrent); err == nil {
			progress("copied MB", at>>20)
		}
	}
	return out.Sync()
}

// prepare checks the copy and makes it a database to go on with: of this
// program's schema, with no worker, and nothing running.
func (o RestoreOptions) prepare(ctx context.Context, path string, lastID int64, done *Restored) error {
	db, err := sql.Open("sqlite", dsn(path, o.Timeout, "locking_mode(EXCLUSIVE)"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	err = o.prepareOn(ctx, db, lastID, done)
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if n, err := size(path + "-wal"); err != nil || n > 0 {
		return errors.Join(err, fmt.Errorf("%w: the log of %s could not be moved into it", queue.ErrUnavailable, path))
	}
	return nil
}

func (o RestoreOptions) prepareOn(ctx context.Context, db *sql.DB, lastID int64, done *Restored) error {
	if err := checkOurs(ctx, db); err != nil {
		return err
	}
	if err := integrity(ctx, db, o.Progress); err != nil {
		return err
	}
	if err := done.count(ctx, db); err != nil {
		return err
	}
	var err error
	if done.DamagedPayloads, err = damagedPayloads(ctx, db, o.Progress); err != nil {
		return err
	}
	if mode, err := one[string](ctx, db, "PRAGMA journal_mode=WAL"); err != nil || mode != "wal" {
		return errors.Join(classify(err), fmt.Errorf("%w: its journal mode is %q", queue.ErrUnavailable, mode))
	}
	done.Schema, err = sqliteDialect.step(ctx, db, func(ctx context.Context, p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = tx.Rollback() }() // after the commit it does nothing
	if done.TakenBack, err = takeBack(ctx, tx, lastID); err != nil {
		return classify(err)
	}
	return classify(tx.Commit())
}

// takeBack has nothing running any more. It did not crash: the backup was made
// while it ran. Ids that were given since the backup are not given again.
func takeBack(ctx context.Context, q querier, lastID int64) (n int64, err error) {
	if _, err := exec(ctx, q, "DELETE FROM workers"); err != nil {
		return 0, err
	}
	jobs, err := all(ctx, q, orphanQuery, nil, scanJob)
	if err != nil {
		return 0, err
	}
	items := make([]settling, len(jobs))
	for i, j := range jobs {
		items[i] = settling{Claim: j.Claim, Settlement: queue.GiveBack(j, "it ran when the backup was made", queue.Now())}
	}
	if _, err := settle(ctx, q, items); err != nil {
		return 0, err
	}
	if lastID == 0 {
		return int64(len(jobs)), nil
	}
	return int64(len(jobs)), execAll(ctx, q, sqliteDialect.setLastID, lastID)
}

// commit makes the new database the one that whoever comes next will find, and
// puts it into its place.
func (o RestoreOptions) commit(ctx context.Context, next string, done *Restored) (kept string, err error) {
	if done.Bytes, err = syncFile(openBeside(next, o.Database, os.O_RDWR)); err != nil {
		return "", err
	}
	info, err := os.Stat(next)
	if err != nil {
		return "", err
	}
	at := info.ModTime().UTC().Format(nameTime)
	kept = before(o.Database, at)
	for _, suffix := range append(parts(), "") { // nothing may be in the way of those who finish it
		if n, err := size(kept + suffix); err != nil || n >= 0 {
			return "", errors.Join(err, fmt.Errorf("%w: %s is there; run the same command again", queue.ErrRefused, kept+suffix))
		}
	}
	if err := context.Cause(ctx); err != nil { // from here on it is done
		return "", err
	}
	if err := noteUnfinished(o.Database, at); err != nil {
		return "", err
	}
	if err := os.Rename(next, restored(o.Database)); err != nil {
		return "", err
	}
	if err := syncDirs(filepath.Dir(o.Database)); err != nil {
		return "", err
	}
	return finishRestore(o.Database)
}

const restoringSuffix, restoredSuffix = ".restoring", ".restored"

// restored is the name of a new database that is whole, and has only to be put
// into its place.
func restored(database string) string { return realPath(database) + restoredSuffix }

// before is the name that the present database gets when a new one takes its place.
func before(database, at string) string { return realPath(database) + ".before-" + at }

// finishRestore puts a new database that waits for it into its place, and returns
// what the old one is called now; empty where there was none. It can be called
// again wherever it was broken off. Nobody may have the database open.
func finishRestore(database string) (kept string, err error) {
	database = realPath(database)
	at, err := unfinished(database)
	if err != nil || at == "" {
		return "", err
	}
	to := before(database, at)
	n, err := size(restored(database))
	if err == nil && n >= 0 { // else it died before that had its name, or afterwards
		err = putInPlace(database, restored(database), to)
	}
	if err == nil {
		err = syncDirs(filepath.Dir(database))
	}
	if err != nil {
		return "", err
	}
	for _, suffix := range append(parts(), "") {
		if n, err := size(to + suffix); err == nil && n >= 0 {
			kept = to
		}
	}
	return kept, noteUnfinished(database, "")
}

func putInPlace(database, next, to string) error {
	for _, suffix := range append(parts(), "") { // the database last: without its log it must not be opened
		if err := moveNew(database+suffix, to+suffix); err != nil {
			return err
		}
	}
	if err := syncDirs(filepath.Dir(database)); err != nil {
		return err
	}
	return moveNew(next, database)
}

// moveNew renames a file, if it is there, to a name that is not.
func moveNew(from, to string) error {
	a, err := size(from)
	if err != nil || a < 0 {
		return err
	}
	b, err := size(to)
	if err == nil && b >= 0 {
		err = fmt.Errorf("both are there; move %s to another directory, then run the same command again", to)
	}
	if err == nil {
		err = os.Rename(from, to)
	}
	if err != nil {
		return fmt.Errorf("%w: restore: rename %s to %s: %w", queue.ErrUnavailable, from, to, err)
	}
	return nil
}
