package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"orchestrate/internal/queue"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// BackupOptions say what to back up, and where to.
type BackupOptions struct {
	Options
	File  string
	Force bool // File may be there, and is replaced
	// Progress is told what is done, and how far it is.
	Progress func(doing string, n int64)
}

// Snapshot is what a database held at one moment.
type Snapshot struct {
	Schema int64 `json:"schema_version"`
	Events int64 `json:"events"`
	Jobs   int64 `json:"jobs"`
	// LastReceivedAt is that of the last event: what came later is not in it.
	LastReceivedAt queue.Time `json:"last_received_at"`
	// DamagedPayloads are events whose body is not the one that was signed: it
	// differs from its digest.
	DamagedPayloads []int64 `json:"damaged_payloads"`
	Bytes           int64   `json:"bytes"` // of the file
}

// Backup copies a SQLite database into a file, while others work on it. The file
// is the state at one moment, read back and checked; when there is an error it
// is not there, or the one that was there still is.
//
// It is SQLite's backup API inside of a read transaction, rather than VACUUM
// INTO: that can't be run in one, so that nobody could tell what the copy should
// hold, and it builds the indexes anew, so that the check of the copy would be
// none of the original. Pages as they are take less time, and for as long as a
// snapshot is held the WAL grows.
//
// ErrInvalid on PostgreSQL; ErrRefused where the file is there, or is part of a
// database; ErrDamaged where the database is.
func Backup(ctx context.Context, o BackupOptions) (snap Snapshot, err error) {
	if isPostgres(o.Database) {
		return snap, fmt.Errorf("%w: %s is on PostgreSQL, which has its own tools: pg_dump writes a backup, pg_restore or psql reads it",
			queue.ErrInvalid, Shown(o.Database))
	}
	o.Options = o.withDefaults()
	useOFDLocks(ctx, o.Log)
	if err := errors.Join(checkName(realPath(o.Database)), checkName(o.File)); err != nil {
		return snap, err
	}
	if err := o.mustExist(); err != nil {
		return snap, err
	}
	if err := o.checkTarget(); err != nil {
		return snap, err
	}
	leave, err := enter(ctx, o.Options)
	if err != nil {
		return snap, o.failed(err)
	}
	defer leave()
	if err := settleWAL(ctx, o.Options); err != nil {
		return snap, o.failed(err)
	}
	partial, err := newPartial(o.File)
	if err != nil {
		return snap, err
	}
	defer func() { err = errors.Join(err, removeDatabase(partial)) }() // what is whole has another name by then
	if snap, err = copyPages(ctx, o, partial); err != nil {
		return snap, fmt.Errorf("copy %s to %s: %w", o.Database, o.File, err)
	}
	if err := verify(ctx, partial, &snap, o.Progress); err != nil {
		if errors.Is(err, queue.ErrDamaged) { // the copy has what the database has
			return snap, fmt.Errorf("%s: %w; no backup was written%s", o.Database, err, restoreIt)
		}
		return snap, fmt.Errorf("read back the copy of %s: %w", o.Database, err)
	}
	if snap.Bytes, err = syncFile(os.OpenFile(partial, os.O_RDWR, 0)); err != nil { //nolint:gosec // G304: made here
		return snap, err
	}
	if err := o.checkTarget(); err != nil { // it may have been made meanwhile
		return snap, err
	}
	if err := os.Rename(partial, o.File); err != nil {
		return snap, err
	}
	return snap, syncDirs(filepath.Dir(o.File))
}

// checkTarget refuses a file that is there, and whatever belongs to a database:
// a log beside a file of its name would be taken for that of the file.
func (o BackupOptions) checkTarget() error {
	info, err := os.Lstat(o.File)
	for _, suffix := range append(parts(), "") {
		part, statErr := os.Stat(realPath(o.Database) + suffix)
		if err == nil && statErr == nil && os.SameFile(info, part) {
			return fmt.Errorf("%w: %s is the database itself; name another file", queue.ErrInvalid, o.File)
		}
	}
	for _, suffix := range parts() {
		if _, err := os.Lstat(o.File + suffix); err == nil {
			return fmt.Errorf("%w: %s is there, as beside a database in use; name another file", queue.ErrRefused, o.File+suffix)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no file; name a file in it, or another", queue.ErrInvalid, o.File)
	case !o.Force:
		return fmt.Errorf("%w: %s exists; name another file, or add --force", queue.ErrRefused, o.File)
	}
	return nil
}

// parts are the ends of the names of the files that SQLite keeps beside a database.
func parts() []string { return []string{"-wal", "-shm", "-journal"} }

// newPartial makes a file of another name beside the one that is wanted, for its
// user alone.
func newPartial(file string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*.partial")
	if err != nil {
		return "", fmt.Errorf("create a file beside %s: %w", file, err)
	}
	return f.Name(), f.Close()
}

func removeDatabase(path string) error {
	var errs []error
	for _, suffix := range append(parts(), "") {
		if err := os.Remove(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stepPages is how much is copied between two looks at the context: 4 MiB.
const stepPages = 512

// backuper is a connection of the driver.
type backuper interface {
	NewBackup(to string) (*sqlite.Backup, error)
}

// copyPages copies what one read transaction sees, and counts it in the same.
func copyPages(ctx context.Context, o BackupOptions, to string) (snap Snapshot, err error) {
	db, err := sql.Open("sqlite", dsn(o.Database, o.Timeout)+"&mode=rw")
	if err != nil {
		return snap, err
	}
	defer func() { err = closeTrusted(db, o.Database, err) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return snap, classify(err)
	}
	defer func() { _ = conn.Close() }() // with its transaction: the pool is closed next, or the process ends
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return snap, classify(err)
	}
	if err := checkOurs(ctx, conn); err != nil {
		return snap, err
	}
	if err := snap.count(ctx, conn); err != nil {
		return snap, err
	}
	err = conn.Raw(func(c any) error {
		driver, ok := c.(backuper)
		if !ok {
			return fmt.Errorf("connection is a %T", c)
		}
		b, err := driver.NewBackup("file:" + dsnPath(to) + "?mode=rw&_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)")
		if err != nil {
			return err
		}
		for more := true; more && err == nil; {
			if err = context.Cause(ctx); err == nil {
				more, err = b.Step(stepPages)
				o.Progress("copied MB", int64(b.PageCount()-b.Remaining())*pageSize>>20)
			}
		}
		return errors.Join(err, b.Finish())
	})
	if isFull(err) { // not the database's: nothing is written there
		return snap, fmt.Errorf("%w; make room on the disk of %s", err, o.File)
	}
	return snap, classify(err)
}

// isFull: a copy can't be written.
func isFull(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_WRITE)
}

// count reads the schema's version and how much there is.
func (s *Snapshot) count(ctx context.Context, q querier) (err error) {
	if s.Schema, err = sqliteDialect.version(ctx, q); err != nil {
		return err
	}
	if s.Schema == 0 {
		return fmt.Errorf("%w: there is no queue in it", queue.ErrUnavailable)
	}
	if err := sqliteDialect.refuseNewer(ctx, q); err != nil {
		return err
	}
	if s.Events, err = one[int64](ctx, q, "SELECT count(*) FROM webhook_events"); err == nil {
		s.Jobs, err = one[int64](ctx, q, "SELECT count(*) FROM webhook_jobs")
	}
	if err == nil {
		s.LastReceivedAt, err = one[queue.Time](ctx, q, "SELECT coalesce((SELECT received_at FROM webhook_events ORDER BY id DESC LIMIT 1), 0)")
	}
	return classify(err)
}

// verify makes a copy a single file, reads all of it back, and holds it to what
// the snapshot had.
func verify(ctx context.Context, path string, want *Snapshot, progress func(string, int64)) error {
	if err := leaveWAL(ctx, path); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "file:"+dsnPath(path)+"?mode=ro&immutable=1")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	var got Snapshot
	err = integrity(ctx, db, progress)
	if err == nil {
		err = got.count(ctx, db)
	}
	if err == nil && (got.Schema != want.Schema || got.Events != want.Events || got.Jobs != want.Jobs) {
		err = fmt.Errorf("it has %d events and %d jobs, of version %d; the database had %d and %d, of version %d",
			got.Events, got.Jobs, got.Schema, want.Events, want.Jobs, want.Schema)
	}
	if err == nil {
		want.DamagedPayloads, err = damagedPayloads(ctx, db, progress)
	}
	return errors.Join(err, db.Close())
}

// leaveWAL: a backup is one file, with no log beside it that could be left
// behind. It must be read by another connection: SQLite can't leave WAL mode in
// one that may not write.
func leaveWAL(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", "file:"+dsnPath(path)+"?mode=rw&_pragma=locking_mode(EXCLUSIVE)")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	mode, err := one[string](ctx, db, "PRAGMA journal_mode=DELETE")
	if err == nil && mode != "delete" {
		err = fmt.Errorf("it stays in journal mode %s", mode)
	}
	return errors.Join(classify(err), db.Close())
}

// maxFound bounds what is told of what is wrong with a database.
const maxFound = 5

// integrity is ErrDamaged with what SQLite finds wrong.
func integrity(ctx context.Context, q querier, progress func(string, int64)) error {
	progress("checking the copy; problems found", 0)
	return problems(ctx, q, "PRAGMA integrity_check("+digits(maxFound)+")")
}

func problems(ctx context.Context, q querier, pragma statement) error {
	found, err := all(ctx, q, pragma, nil, func(rows *sql.Rows, s *string) error { return rows.Scan(s) })
	if err != nil {
		return classify(err)
	}
	if len(found) == 1 && found[0] == "ok" {
		return nil
	}
	return fmt.Errorf("%w: %s", queue.ErrDamaged, queue.Clean(strings.Join(found, "; ")))
}

// bodiesRead is how many bodies are read at once: short, as long readers stop
// checkpoints.
const bodiesRead = 50

const bodiesQuery = `SELECT p.event_id, p.body, e.body_sha256 FROM webhook_payloads p JOIN webhook_events e ON e.id = p.event_id
	WHERE p.event_id > $1 ORDER BY p.event_id LIMIT $2`

// checkBodies compares some bodies with their digests: a changed byte in one is
// nothing that SQLite could see. It returns the events of those that differ, the
// last one it read, and whether there may be more.
func checkBodies(ctx context.Context, q querier, after int64) (differ []int64, last int64, more bool, err error) {
	last = after
	n := 0
	err = each(ctx, q, bodiesQuery, args{after, bodiesRead}, func(rows *sql.Rows) error {
		var body sql.RawBytes
		var want string
		if err := rows.Scan(&last, &body, &want); err != nil {
			return err
		}
		n++
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != want {
			differ = append(differ, last)
		}
		return nil
	})
	return differ, last, n == bodiesRead, classify(err)
}

func damagedPayloads(ctx context.Context, q querier, progress func(string, int64)) (found []int64, err error) {
	found = []int64{}
	for after, more := int64(0), true; more; {
		var differ []int64
		if differ, after, more, err = checkBodies(ctx, q, after); err != nil {
			return found, err
		}
		found = append(found, differ...)
		progress("comparing payloads with their digests, at event", after)
	}
	return found, nil
}

// syncFile has a file on disk, and tells its size.
func syncFile(f *os.File, err error) (size int64, _ error) {
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err == nil {
		size, err = info.Size(), f.Sync()
	}
	return size, errors.Join(err, f.Close())
}
