package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"orchestrate/internal/queue"
)

// signed is a delivery with the digest that it should have.
func signed(id string, body []byte, routes ...string) queue.Insertion {
	in := deliveryOf(id, "", routes...)
	sum := sha256.Sum256(body)
	in.Payload.Body, in.Event.BodySize, in.Event.BodySHA256 = body, int64(len(body)), hex.EncodeToString(sum[:])
	return in
}

func deliver(t testing.TB, s queue.Store, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		body := bytes.Repeat([]byte(fmt.Sprintf("body %d;", i)), 1+i%7*400)
		if _, err := s.Insert(t.Context(), signed(fmt.Sprint("d", i), body, "r")); err != nil {
			t.Fatal(err)
		}
	}
}

func backupOf(database, file string) BackupOptions {
	return BackupOptions{Options: Options{Database: database}, File: file, Progress: func(string, int64) {}}
}

func restoreOf(database, file string) RestoreOptions {
	return RestoreOptions{Options: Options{Database: database}, File: file, Progress: func(string, int64) {}}
}

func backup(t testing.TB, database, file string) Snapshot {
	t.Helper()
	snap, err := Backup(t.Context(), backupOf(database, file))
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func restore(t testing.TB, database, file string) Restored {
	t.Helper()
	done, err := Restore(t.Context(), restoreOf(database, file))
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// wantFiles holds a directory to what is in it, but for locks.
func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	var got []string
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "lock") {
			got = append(got, e.Name())
		}
	}
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("files: got %q, want %q", got, want)
	}
}

// TestBackupUnderLoad: every backup is whole, and is what was there at one
// moment: of deliveries in a row those up to some one.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	database := filepath.Join(t.TempDir(), "q.db")
	s := open(t, database)
	deliver(t, s, 0, 49)
	large := signed("d49", bytes.Repeat([]byte("large "), 800<<10), "r") // more than is copied at once
	_, err := s.Insert(t.Context(), large)
	must(t, err)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for i := 50; ; i++ {
			select {
			case <-done:
				return
			default:
				deliver(t, s, i, i+1)
			}
		}
	})
	for i, last := 0, int64(50); i < 2; i++ {
		dir := t.TempDir()
		file := filepath.Join(dir, "b.db")
		snap := backup(t, database, file)
		wantFiles(t, dir, "b.db")
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || info.Size() != snap.Bytes {
			t.Errorf("%v, %v; want 0600 and %d bytes", info, err, snap.Bytes)
		}
		if snap.Events < last || snap.Jobs != snap.Events || snap.LastReceivedAt == 0 || len(snap.DamagedPayloads) > 0 {
			t.Errorf("got %+v, want %d events or more", snap, last)
		}
		restored := filepath.Join(t.TempDir(), "r.db")
		restore(t, restored, file)
		r := open(t, restored)
		events, err := r.List(t.Context(), queue.Filter{}, 1_000_000)
		must(t, err)
		for n, e := range events {
			if want := fmt.Sprint("d", len(events)-1-n); e.DeliveryID != want {
				t.Fatalf("delivery %s, want %s", e.DeliveryID, want)
			}
		}
		if int64(len(events)) != snap.Events {
			t.Errorf("%d events, want %d", len(events), snap.Events)
		}
		last = snap.Events
	}
	close(done)
	wg.Wait()
}

func TestBackupRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	s := open(t, at("q.db"))
	deliver(t, s, 0, 3)
	must(t, os.WriteFile(at("there"), []byte("mine"), 0o600))
	must(t, os.WriteFile(at("other-wal"), nil, 0o600))
	must(t, os.Symlink(at("q.db"), at("link.db")))
	must(t, os.WriteFile(at("nonsense"), bytes.Repeat([]byte("no database "), 1000), 0o600))
	for _, tt := range []struct {
		name, database, file string
		force                bool
		want                 error
		says                 string
	}{
		{"a file that is there", "q.db", "there", false, queue.ErrRefused, "add --force"},
		{"the database", "q.db", "q.db", true, queue.ErrInvalid, "is the database itself"},
		{"its log", "q.db", "q.db-wal", true, queue.ErrInvalid, "end in -wal"},
		{"the database by a link", "link.db", "q.db", true, queue.ErrInvalid, "is the database itself"},
		{"a name with a log beside it", "q.db", "other", true, queue.ErrRefused, "other-wal is there"},
		{"a directory", "q.db", ".", true, queue.ErrInvalid, "is no file"},
		{"no directory", "q.db", "none/b.db", false, fs.ErrNotExist, "none"},
		{"no database", "none.db", "b.db", false, queue.ErrUnavailable, "none.db"},
		{"another's database", "nonsense", "b.db", false, queue.ErrUnavailable, "nonsense"},
	} {
		o := backupOf(at(tt.database), at(tt.file))
		o.Force = tt.force
		if _, err := Backup(t.Context(), o); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %v with %q", tt.name, err, tt.want, tt.says)
		}
	}
	if _, err := Backup(t.Context(), backupOf("postgres://me:secret@db/q", "b")); !errors.Is(err, queue.ErrInvalid) ||
		!strings.Contains(err.Error(), "pg_dump") || strings.Contains(err.Error(), "secret") {
		t.Errorf("PostgreSQL: got %v", err)
	}
	wantFiles(t, dir, "q.db", "q.db-wal", "q.db-shm", "there", "other-wal", "link.db", "nonsense")
	o := backupOf(at("q.db"), at("there"))
	o.Force = true
	if snap, err := Backup(t.Context(), o); err != nil || snap.Events != 3 {
		t.Errorf("with force: %+v, %v", snap, err)
	}
}

// TestBackupAfterFailedSync: the log is written again before it is relied on.
func TestBackupAfterFailedSync(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "s.db"))
	deliver(t, s, 0, 9)
	database := filepath.Join(t.TempDir(), "q.db")
	crash(t, s, database)
	mark(database)
	if snap := backup(t, database, database+".backup"); snap.Events != 9 {
		t.Errorf("got %+v, want 9 events", snap)
	}
	if isMarked(database) {
		t.Error("the mark of the failed sync is still there")
	}
	mark(database)
	if done := restore(t, database, database+".backup"); done.Events != 9 {
		t.Errorf("got %+v, want 9 events", done)
	}
	if events, err := open(t, database).List(t.Context(), queue.Filter{}, 100); err != nil || len(events) != 9 {
		t.Errorf("%d events, %v; want 9", len(events), err)
	}
}

// TestBackupBrokenOff leaves nothing, and a file that was there as it was.
func TestBackupBrokenOff(t *testing.T) {
	t.Parallel()
	database := filepath.Join(t.TempDir(), "q.db")
	s := open(t, database)
	deliver(t, s, 0, 200)
	for _, at := range []string{"copied MB", "checking the copy; problems found", "comparing payloads with their digests, at event"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "b.db")
		must(t, os.WriteFile(file, []byte("mine"), 0o600))
		ctx, cancel := context.WithCancelCause(t.Context())
		o := backupOf(database, file)
		o.Force = true
		o.Progress = func(doing string, _ int64) {
			if doing == at {
				cancel(errors.New("enough"))
			}
		}
		if _, err := Backup(ctx, o); err == nil {
			t.Errorf("%s: no error", at)
		}
		wantFiles(t, dir, "b.db")
		if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
			t.Errorf("%s: the file was changed, %v", at, err)
		}
	}
}

// TestRestore: the queue is what it was when the backup was made, with nothing
// running, and the one before is kept, whole.
func TestRestore(t *testing.T) {
	t.Parallel()
	dir, backups := t.TempDir(), t.TempDir()
	database, file := filepath.Join(dir, "q.db"), filepath.Join(backups, "b.db")
	s := open(t, database)
	deliver(t, s, 0, 5)
	now := queue.Now()
	must(t, s.Register(t.Context(), queue.Worker{ID: "w", Routes: []string{"r"}, StartedAt: now}, ""))
	claimed, err := s.Claim(t.Context(), queue.ClaimParams{Route: "r", Now: now, DueBy: now, Limit: 2, WorkerID: "w"})
	if must(t, err); len(claimed) != 2 {
		t.Fatalf("claimed %v", claimed)
	}
	backup(t, database, file)
	deliver(t, s, 5, 9)

	if _, err := Restore(t.Context(), restoreOf(database, file)); !errors.Is(err, queue.ErrRefused) || !strings.Contains(err.Error(), database) {
		t.Fatalf("beside an open store: got %v, want ErrRefused", err)
	}
	if _, err := Restore(t.Context(), restoreOf(filepath.Join(dir, "other.db"), database)); !errors.Is(err, queue.ErrRefused) {
		t.Errorf("from an open database: got %v, want ErrRefused", err)
	}
	must(t, s.Close())
	done := restore(t, database, file)
	if done.Events != 5 || done.TakenBack != 2 || done.Kept == "" || done.Lost != "" || done.Schema != 3 {
		t.Errorf("got %+v", done)
	}
	wantFiles(t, dir, "q.db", filepath.Base(done.Kept))
	old := open(t, done.Kept)
	if events, err := old.List(t.Context(), queue.Filter{}, 100); err != nil || len(events) != 9 {
		t.Errorf("the one before has %d events, %v; want 9", len(events), err)
	}

	r := open(t, database)
	workers, err := r.Workers(t.Context())
	if must(t, err); len(workers) > 0 {
		t.Errorf("workers are left: %v", workers)
	}
	for id := int64(1); id <= 5; id++ {
		jobs, err := r.Jobs(t.Context(), id)
		if must(t, err); len(jobs) != 1 || jobs[0].Status != queue.StatusPending || jobs[0].CrashCount != 0 {
			t.Errorf("event %d: jobs %+v, want a pending one", id, jobs)
		}
		attempts, err := r.Attempts(t.Context(), id)
		if must(t, err); slices.ContainsFunc(claimed, func(j queue.Job) bool { return j.EventID == id }) != (len(attempts) == 1) {
			t.Errorf("event %d: attempts %+v", id, attempts)
		}
	}
	receipt, err := r.Insert(t.Context(), signed("new", []byte("{}"), "r"))
	if must(t, err); receipt.EventID != 10 {
		t.Errorf("a new event has id %d, want 10: 9 was given before", receipt.EventID)
	}
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	s := open(t, at("q.db"))
	deliver(t, s, 0, 40)
	root, err := one[int64](t.Context(), s.pool, "SELECT rootpage FROM sqlite_master WHERE name = 'webhook_jobs_dead'")
	must(t, err)
	for _, name := range []string{"good", "newer", "torn", "cut"} {
		backup(t, at("q.db"), at(name))
	}
	must(t, s.Close())
	before := read(t, at("q.db"))
	damage(t, at("torn"), -1, (root-1)*pageSize) // of an index that nothing reads
	must(t, os.Truncate(at("cut"), pageSize*4))
	setVersion(t, at("newer"), 99)
	must(t, os.WriteFile(at("nonsense"), bytes.Repeat([]byte("no database "), 1000), 0o600))
	must(t, os.WriteFile(at("empty"), nil, 0o600))
	must(t, os.WriteFile(at("hot-journal"), []byte("x"), 0o600))
	must(t, os.WriteFile(at("hot"), nil, 0o600))
	for _, tt := range []struct {
		name, file string
		want       error
	}{
		{"no file", "none", queue.ErrNotFound},
		{"a directory", ".", queue.ErrInvalid},
		{"another's file", "nonsense", queue.ErrUnavailable},
		{"an empty file", "empty", queue.ErrUnavailable},
		{"a page of garbage", "torn", queue.ErrDamaged},
		{"a file that was cut off", "cut", queue.ErrDamaged},
		{"a newer schema", "newer", queue.ErrSchema},
		{"half of a transaction", "hot", queue.ErrRefused},
	} {
		if done, err := Restore(t.Context(), restoreOf(at("q.db"), at(tt.file))); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %+v, %v; want %v", tt.name, done, err, tt.want)
		}
	}
	if _, err := Restore(t.Context(), restoreOf("postgres://me:secret@db/q", at("good"))); !errors.Is(err, queue.ErrInvalid) ||
		!strings.Contains(err.Error(), "pg_restore") || strings.Contains(err.Error(), "secret") {
		t.Errorf("PostgreSQL: got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	o := restoreOf(at("q.db"), at("good"))
	o.Progress = func(string, int64) { cancel(errors.New("enough")) }
	if _, err := Restore(ctx, o); err == nil {
		t.Error("broken off: no error")
	}
	if !bytes.Equal(before, read(t, at("q.db"))) {
		t.Error("a refusal changed the database")
	}
	wantFiles(t, dir, "q.db", "good", "newer", "torn", "cut", "nonsense", "empty", "hot", "hot-journal")
}

// TestRestoreOlderSchema brings it up to date.
func TestRestoreOlderSchema(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "old.db")
	must(t, open(t, old).Close())
	if _, err := MigrateDown(t.Context(), Options{Database: old}, 1); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "b.db")
	if snap := backup(t, old, file); snap.Schema != 1 {
		t.Errorf("the backup has version %d, want 1", snap.Schema)
	}
	database := filepath.Join(dir, "state", "q.db")
	if done := restore(t, database, file); done.Schema != 3 || done.Kept != "" {
		t.Errorf("got %+v, want version 3, and none before", done)
	}
	deliver(t, open(t, database), 0, 1)
}

// TestRestoreKilled: wherever it stops after the new database is whole, the next
// one to open finishes it; before that, the old one is as it was.
func TestRestoreKilled(t *testing.T) {
	t.Parallel()
	for _, moved := range []int{-1, 1, 4} { // files that were moved before the kill; -1: none was ready
		dir := t.TempDir()
		database := filepath.Join(dir, "q.db")
		s := open(t, database)
		deliver(t, s, 0, 9)
		crash(t, s, database+"x")
		must(t, s.Close())
		for _, suffix := range []string{"", "-wal", "-shm"} { // as after a kill, with all in the log
			must(t, os.Rename(database+"x"+suffix, database+suffix))
		}
		other := filepath.Join(t.TempDir(), "other.db")
		deliver(t, open(t, other), 0, 4)
		want := 9
		if moved < 0 {
			must(t, os.WriteFile(database+".restoring", []byte("half"), 0o600))
		} else {
			want = 4
			const at = "20261124T155901.285Z"
			must(t, noteUnfinished(database, at))
			backup(t, other, other+"-copy")
			must(t, os.Rename(other+"-copy", restored(database)))
			toWAL(t, restored(database))
			for _, suffix := range append(parts(), "")[:moved] {
				must(t, moveNew(database+suffix, before(database, at)+suffix))
			}
		}
		r, err := openSQLite(t.Context(), Options{Database: database})
		if err != nil {
			t.Errorf("%d moved: %v", moved, err)
			continue
		}
		if events, err := r.List(t.Context(), queue.Filter{}, 100); err != nil || len(events) != want {
			t.Errorf("%d moved: %d events, %v; want %d", moved, len(events), err, want)
		}
		must(t, r.Close())
		if moved < 0 {
			continue
		}
		kept, err := filepath.Glob(database + ".before-*Z")
		if must(t, err); len(kept) != 1 {
			t.Fatalf("%d moved: kept %q", moved, kept)
		}
		if events, err := open(t, kept[0]).List(t.Context(), queue.Filter{}, 100); err != nil || len(events) != 9 {
			t.Errorf("%d moved: the old one has %d events, %v; want 9", moved, len(events), err)
		}
	}
}

// TestFileOfThatNameIsNoRestore: only a restore has a database replaced, whatever
// lies beside it.
func TestFileOfThatNameIsNoRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	database, file := filepath.Join(dir, "q.db"), filepath.Join(dir, "b.db")
	s := open(t, database)
	deliver(t, s, 0, 1)
	backup(t, database, file)
	must(t, os.Rename(file, restored(database)))
	deliver(t, s, 1, 2)
	beside, err := openSQLite(t.Context(), Options{Database: database, Timeout: time.Second})
	if err != nil {
		t.Fatalf("beside a process: %v", err)
	}
	must(t, errors.Join(beside.Close(), s.Close()))
	if events, err := open(t, database).List(t.Context(), queue.Filter{}, 10); err != nil || len(events) != 2 {
		t.Errorf("after a restart: %d events, %v; want 2", len(events), err)
	}
}

// TestReservedNames: what would be taken for a part of a database is refused as
// the name of one, or of a backup.
func TestReservedNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	database, file := filepath.Join(dir, "q.db"), filepath.Join(dir, "b.db")
	must(t, open(t, database).Close())
	backup(t, database, file)
	for _, suffix := range []string{"-wal", "-shm", "-journal", ".lock", ".migrate-lock", ".restoring", ".restored", ".reserve", ".checked", ".sync-failed"} {
		name := filepath.Join(dir, "other.db") + suffix
		_, opened := Open(t.Context(), Options{Database: name, Create: true})
		_, migrated := MigrateUp(t.Context(), Options{Database: name})
		_, backedUp := Backup(t.Context(), backupOf(database, name))
		_, restoredTo := Restore(t.Context(), restoreOf(name, file))
		_, restoredFrom := Restore(t.Context(), restoreOf(database, name))
		for what, err := range map[string]error{"open": opened, "migrate": migrated, "backup": backedUp, "restore to": restoredTo, "restore from": restoredFrom} {
			if !errors.Is(err, queue.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "other.db"+suffix) {
				t.Errorf("%s %s: got %v, want ErrInvalid, and the name", what, suffix, err)
			}
		}
	}
	o := backupOf(database, database+".lock")
	o.Force = true
	if _, err := Backup(t.Context(), o); !errors.Is(err, queue.ErrInvalid) {
		t.Errorf("backup --force into the lock: got %v, want ErrInvalid", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "other*"))
	if must(t, err); len(left) > 0 {
		t.Errorf("a refusal made %q", left)
	}
}

// TestWhatIsHeldIsNamed: whoever can't go on is told what to do.
func TestWhatIsHeldIsNamed(t *testing.T) {
	t.Parallel()
	database := filepath.Join(t.TempDir(), "q.db")
	must(t, open(t, database).Close())
	lock, err := Options{Database: database}.useLock()
	must(t, err)
	if free, err := lock.TryLock(); err != nil || !free {
		t.Fatal(free, err)
	}
	_, err = openSQLite(t.Context(), Options{Database: database, Timeout: time.Second})
	if !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "q.db.lock") || !strings.Contains(err.Error(), "try again") {
		t.Errorf("while another process holds it: got %v", err)
	}
	must(t, lock.Unlock())
	const at = "20261124T155901.285Z"
	must(t, noteUnfinished(database, at))
	for _, path := range []string{restored(database), before(database, at)} {
		must(t, os.WriteFile(path, nil, 0o600))
	}
	_, err = openSQLite(t.Context(), Options{Database: database})
	if want := "move " + before(database, at) + " to another directory"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("with both there: got %v, want %q", err, want)
	}
}

// TestRestoreOverADamagedDatabase: it, too, may be another program's just now, and
// has given ids.
func TestRestoreOverADamagedDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	database, file := filepath.Join(dir, "q.db"), filepath.Join(dir, "b.db")
	s := open(t, database)
	deliver(t, s, 0, 5)
	backup(t, database, file)
	deliver(t, s, 5, 9)
	must(t, s.Close())
	other, err := sql.Open("sqlite", dsn(database, time.Second)) // knows of no lock of ours
	must(t, err)
	defer func() { _ = other.Close() }()
	_, err = one[int64](t.Context(), other, "SELECT count(*) FROM webhook_events")
	must(t, err)
	must(t, os.Remove(database+"-wal"))
	if err := inspect(database); !errors.Is(err, queue.ErrDamaged) {
		t.Fatalf("its log is missing: got %v, want ErrDamaged", err)
	}
	if _, err := Restore(t.Context(), restoreOf(database, file)); !errors.Is(err, queue.ErrRefused) {
		t.Errorf("beside a program: got %v, want ErrRefused", err)
	}
	must(t, other.Close())
	must(t, os.WriteFile(database+"-shm", []byte("left"), 0o600))
	if done := restore(t, database, file); done.Events != 5 || done.Kept == "" {
		t.Errorf("got %+v, want 5 events", done)
	}
	receipt, err := open(t, database).Insert(t.Context(), signed("new", []byte("{}"), "r"))
	if must(t, err); receipt.EventID != 10 {
		t.Errorf("a new event has id %d, want 10: 9 was given before", receipt.EventID)
	}
}

// TestRestoreKeepsALogAlone: the log of a database that is gone is kept, and told.
func TestRestoreKeepsALogAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	database, file := filepath.Join(dir, "q.db"), filepath.Join(dir, "b.db")
	must(t, open(t, database).Close())
	backup(t, database, file)
	must(t, os.Remove(database))
	must(t, os.WriteFile(database+"-wal", []byte("precious"), 0o600))
	done := restore(t, database, file)
	if done.Kept == "" || string(read(t, done.Kept+"-wal")) != "precious" {
		t.Errorf("kept as %q, want the log there", done.Kept)
	}
}
