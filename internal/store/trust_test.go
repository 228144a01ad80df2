package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"orchestrate/internal/queue"

	"github.com/pressly/goose/v3"
)

func openFile(t *testing.T, path string, o Options) *SQLite {
	t.Helper()
	o.Database = path
	s, err := openSQLite(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func registerAs(t *testing.T, s *SQLite, id string) error {
	t.Helper()
	return s.Register(t.Context(), queue.Worker{ID: queue.Text(id), StartedAt: 1, HeartbeatAt: 1}, "")
}

// end closes what the end of the process would.
func end(t *testing.T, s *SQLite) {
	t.Helper()
	for _, stmt := range s.w.stmts {
		_ = stmt.Close()
	}
	if err := errors.Join(s.w.conn.Close(), s.writes.Close(), s.pool.Close()); err != nil {
		t.Fatal(err)
	}
	s.leave()
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Of two processes one is told that a sync failed. Neither reads nor writes any
// more, nobody opens the database beside them, and who comes when they are gone
// has the WAL whole in the database before it begins.
func TestFailedSyncEndsEverybody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	told, other := openFile(t, path, Options{Create: true}), openFile(t, path, Options{Create: true})
	if err := errors.Join(registerAs(t, told, "told"), registerAs(t, other, "other")); err != nil {
		t.Fatal(err)
	}
	_ = told.w.noteBroken(fmt.Errorf("commit: %w", queue.ErrBroken))
	before := fileSize(t, path+"-wal")
	for name, s := range map[string]*SQLite{"told": told, "other": other} {
		if _, err := s.Workers(t.Context()); !errors.Is(err, queue.ErrBroken) {
			t.Errorf("%s reads: got %v, want ErrBroken", name, err)
		}
		if err := registerAs(t, s, "late"); !errors.Is(err, queue.ErrBroken) {
			t.Errorf("%s writes: got %v, want ErrBroken", name, err)
		}
		bounded, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := s.Watch(bounded, func() {}); !errors.Is(err, queue.ErrBroken) {
			t.Errorf("%s watches: got %v, want ErrBroken", name, err)
		}
		select {
		case <-s.Broken():
		default:
			t.Errorf("%s is not broken", name)
		}
	}
	for _, create := range []bool{true, false} {
		o := Options{Database: path, Create: create, Timeout: 100 * time.Millisecond}
		if _, err := openSQLite(t.Context(), o); !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("opened beside them, create %t: got %v, want ErrUnavailable", create, err)
		}
	}
	if err := errors.Join(told.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	if got := fileSize(t, path+"-wal"); got != before || got == 0 {
		t.Errorf("the WAL has %d bytes after they ended, want %d as before: they must not touch it", got, before)
	}
	end(t, told)
	waits := make(chan *SQLite)
	go func() {
		s, err := openSQLite(context.Background(), Options{Database: path, Timeout: 10 * time.Second})
		if err != nil {
			t.Errorf("open when the last has gone: %v", err)
		}
		waits <- s
	}()
	end(t, other)
	s := <-waits
	if s == nil {
		return
	}
	t.Cleanup(func() { _ = s.Close() })
	if got := fileSize(t, path+markSuffix); got != -1 {
		t.Error("the mark is still there")
	}
	if workers, err := s.Workers(t.Context()); err != nil || len(workers) != 2 {
		t.Errorf("workers: got %v, %v, want 2", workers, err)
	}
}

// Whoever ends after a sync failed leaves the log as it is, also where it has the
// last connection: its close would be a checkpoint.
func TestFailedSyncClosesNothing(t *testing.T) {
	t.Parallel()
	t.Run("a backup beside it", func(t *testing.T) {
		s := openFile(t, filepath.Join(t.TempDir(), "q.db"), Options{Create: true})
		deliver(t, s, 0, 5)
		o, ended := backupOf(s.database, filepath.Join(t.TempDir(), "b.db")), false
		o.Progress = func(string, int64) {
			if !ended {
				ended = true
				_ = s.w.noteBroken(fmt.Errorf("commit: %w", queue.ErrBroken))
				end(t, s)
			}
		}
		before := fileSize(t, s.database+"-wal")
		if snap, err := Backup(t.Context(), o); err != nil || snap.Events != 5 {
			t.Errorf("got %+v, %v; want 5 events", snap, err)
		}
		if got := fileSize(t, s.database+"-wal"); got != before || got <= 0 {
			t.Errorf("the WAL has %d bytes afterwards, want %d as before", got, before)
		}
	})
	t.Run("a migration", func(t *testing.T) {
		s := openFile(t, filepath.Join(t.TempDir(), "q.db"), Options{Create: true})
		deliver(t, s, 0, 5)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := migrate(t.Context(), Options{Database: s.database}, func(context.Context, *goose.Provider) error {
			execFile(t, s.database, "CREATE TABLE x (i)")
			return queue.ErrBroken
		})
		if got := fileSize(t, s.database+"-wal"); !errors.Is(err, queue.ErrBroken) || got <= 0 || !isMarked(s.database) {
			t.Errorf("got %v, a WAL of %d bytes, marked %v; want ErrBroken, its log, and the mark", err, got, isMarked(s.database))
		}
	})
	t.Run("a start that can't end it", func(t *testing.T) {
		s := openFile(t, filepath.Join(t.TempDir(), "q.db"), Options{Create: true})
		deliver(t, s, 0, 5)
		path := filepath.Join(t.TempDir(), "killed.db")
		crash(t, s, path)
		mark(path)
		if err := errors.Join(os.Remove(path+"-shm"), os.MkdirAll(path+"-shm/x", 0o700)); err != nil {
			t.Fatal(err)
		}
		alone, err := rewriteAlone(t.Context(), path)
		if got := fileSize(t, path+"-wal"); err == nil || alone || got != 0 {
			t.Errorf("got %v, %v, a WAL of %d bytes; want an error, and the file, which is empty", alone, err, got)
		}
	})
}

// What a crash left in the WAL is moved before a process that writes begins,
// and not by one that looks on.
func TestCrashedWALIsSettled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "q.db")
	s := openFile(t, path, Options{Create: true})
	if err := registerAs(t, s, "a"); err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(dir, "crashed.db")
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(crashed+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		create, want bool
	}{{false, false}, {true, true}} {
		o := Options{Database: crashed, Create: step.create, Timeout: time.Second}
		if err := settleWAL(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if settled := fileSize(t, crashed+"-wal") <= 0; settled != step.want {
			t.Errorf("create %t: settled %t, want %t", step.create, settled, step.want)
		}
	}
	again := openFile(t, crashed, Options{})
	if workers, err := again.Workers(t.Context()); err != nil || len(workers) != 1 {
		t.Errorf("workers: got %v, %v, want 1", workers, err)
	}
}

// The checkpoint is the writer's own, so that its errors are seen.
func TestLongWALIsBegunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := openFile(t, path, Options{Create: true})
	fill := func() {
		t.Helper()
		_, err := write(t.Context(), s, op{}, func(ctx context.Context, q querier) (int64, error) {
			return exec(ctx, q, `INSERT INTO webhook_events (source, delivery_id, event_type, received_at, created_at, updated_at, body_size,
				body_sha256, max_retries) SELECT 's', hex(randomblob(120)), 'push', 1, 1, 1, 1, hex(randomblob(32)), 0
				FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT i FROM n)`)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		fill()
	}
	if got := fileSize(t, path+"-wal"); got > 3*longWAL*8192 {
		t.Errorf("the WAL has %d bytes: it is never begun anew", got)
	}
}

// While the disk refuses writes CheckWrites says so, and tries again each time.
func TestCheckWrites(t *testing.T) {
	s := openFile(t, filepath.Join(t.TempDir(), "q.db"), Options{Create: true})
	if err := registerAs(t, s, "a"); err != nil {
		t.Fatal(err)
	}
	refusing, err := sql.Open("sqlite", dsn(s.w.database, time.Second, "query_only(1)"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = refusing.Close() })
	s.w.db = refusing
	_, err = write(t.Context(), s, op{}, func(ctx context.Context, q querier) (int64, error) {
		return exec(ctx, q, "PRAGMA query_only=1") // the next connection is of refusing
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CheckWrites(t.Context()); err != nil {
		t.Errorf("before a write has failed: got %v, want nil", err)
	}
	if err := registerAs(t, s, "b"); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("write: got %v, want ErrUnavailable", err)
	}
	if err := s.CheckWrites(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("while writes fail: got %v, want ErrUnavailable", err)
	}
	s.w.db = s.writes
	if err := s.CheckWrites(t.Context()); err != nil {
		t.Errorf("when they succeed again: got %v, want nil", err)
	}
}

func TestReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	for range 2 {
		if err := KeepReserve(path); err != nil {
			t.Fatal(err)
		}
		if got := fileSize(t, reservePath(path)); got != reserveSize {
			t.Errorf("the reserve has %d bytes, want %d", got, reserveSize)
		}
	}
	if err := os.Truncate(reservePath(path), 10); err != nil {
		t.Fatal(err)
	}
	if err := KeepReserve(path); err != nil || fileSize(t, reservePath(path)) != reserveSize {
		t.Errorf("a short one is not made whole: %v", err)
	}
	keep, err := FreeReserve(t.Context(), path)
	if err != nil || fileSize(t, reservePath(path)) > 1 {
		t.Fatalf("free: %v, there are %d bytes", err, fileSize(t, reservePath(path)))
	}
	if err := KeepReserve(path); err != nil || fileSize(t, reservePath(path)) > 1 {
		t.Errorf("while it is free: %v, there are %d bytes", err, fileSize(t, reservePath(path)))
	}
	if err := keep(); err != nil || fileSize(t, reservePath(path)) != reserveSize {
		t.Errorf("keep: %v, there are %d bytes", err, fileSize(t, reservePath(path)))
	}
	if err := KeepReserve(filepath.Join(path, "no", "q.db")); err == nil {
		t.Error("a reserve that can't be made is no error")
	}
}

// TestCleanupHasTheReserve: on a disk that was full deliveries wait for the cleanup,
// and nothing else does; on another none does.
func TestCleanupHasTheReserve(t *testing.T) {
	t.Parallel()
	s := open(t, "")
	must(t, KeepReserve(s.database))
	for _, full := range []bool{false, true} {
		if full {
			s.w.fullAt.Store(queue.Clock().UnixNano())
		}
		keep, err := FreeReserve(t.Context(), s.database)
		must(t, err)
		_, err = s.Insert(t.Context(), signed(fmt.Sprint("during", full), []byte("{}"), "r"))
		if ready := s.CheckWrites(t.Context()); errors.Is(err, errCleaning) != full || errors.Is(ready, errCleaning) != full {
			t.Errorf("full %v: a delivery got %v, readiness %v", full, err, ready)
		}
		if err := registerAs(t, s, fmt.Sprint(full)); err != nil {
			t.Errorf("full %v: another write got %v, want nil", full, err)
		}
		must(t, keep())
		deliver(t, s, len(fmt.Sprint(full)), 1+len(fmt.Sprint(full)))
	}
	s.w.fullAt.Store(queue.Clock().Add(-longFull - time.Minute).UnixNano())
	keep, err := FreeReserve(t.Context(), s.database)
	must(t, err)
	deliver(t, s, 9, 10)
	must(t, keep())
}
