package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/storetest"

	"modernc.org/sqlite"
)

func TestSQLite(t *testing.T) {
	t.Parallel()
	paths := map[string]string{} // by test: the second time, the same database
	storetest.Run(t, func(t *testing.T) queue.Store {
		if paths[t.Name()] == "" {
			paths[t.Name()] = filepath.Join(t.TempDir(), "q.db")
		}
		return open(t, paths[t.Name()])
	})
}

func open(t testing.TB, path string) *SQLite {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "q.db")
	}
	s, err := openSQLite(t.Context(), Options{Database: path, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "none.db")
	_, err := Open(t.Context(), Options{Database: path})
	if !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: got %v, want ErrUnavailable with the path", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refusal made the file: %v", err)
	}
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, create := range []bool{false, true} {
		if _, err := Open(t.Context(), Options{Database: garbage, Create: create}); !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("garbage, create %v: got %v, want ErrUnavailable", create, err)
		}
	}
}

func TestSchemaVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := open(t, path)
	if _, err := s.writes.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckSchema(t.Context()); !errors.Is(err, queue.ErrSchema) {
		t.Errorf("a newer schema: got %v, want ErrSchema", err)
	}
	for _, create := range []bool{false, true} {
		if _, err := Open(t.Context(), Options{Database: path, Create: create}); !errors.Is(err, queue.ErrSchema) {
			t.Errorf("open a newer schema, create %v: got %v, want ErrSchema", create, err)
		}
	}
	older := filepath.Join(t.TempDir(), "older.db")
	if err := open(t, older).Close(); err != nil {
		t.Fatal(err)
	}
	undone, err := MigrateDown(t.Context(), Options{Database: older}, 0)
	if err != nil || len(undone) == 0 {
		t.Fatalf("migrate down: %v, %v", undone, err)
	}
	if _, err := Open(t.Context(), Options{Database: older}); !errors.Is(err, queue.ErrSchema) || !strings.Contains(err.Error(), "orchestrate migrate") {
		t.Errorf("open an older schema: got %v, want ErrSchema with the next step", err)
	}
	applied, err := MigrateUp(t.Context(), Options{Database: older})
	if err != nil || len(applied) != len(undone) {
		t.Errorf("migrate up: got %v, %v", applied, err)
	}
	steps, version, err := MigrationStatus(t.Context(), Options{Database: older})
	want, _ := sqliteDialect.schemaVersion()
	if err != nil || version != want || len(steps) == 0 || steps[0].AppliedAt == 0 {
		t.Errorf("status: got %v at %d, %v; want version %d", steps, version, err, want)
	}
}

// A process may end after each statement of a creation; whoever comes next goes on.
func TestCreationInterrupted(t *testing.T) {
	t.Parallel()
	for done := range len(creation) + 1 {
		path := filepath.Join(t.TempDir(), "q.db")
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		for _, step := range creation[:done] {
			if _, err := exec(t.Context(), db, step); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		wantCreated(t, open(t, path), fmt.Sprintf("after %d statements", done))
	}
}

// The power went while the first page was written: its journal undoes that.
func TestCreationUndone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	journal := make([]byte, 512)
	copy(journal, "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")      // then no records, a nonce, no pages before
	copy(journal[20:], "\x00\x00\x02\x00\x00\x00\x20\x00") // sectors of 512, pages of 8192
	if err := errors.Join(os.WriteFile(path, make([]byte, 8192), 0o600), os.WriteFile(path+"-journal", journal, 0o600)); err != nil {
		t.Fatal(err)
	}
	wantCreated(t, open(t, path), "after an undone creation")
}

func wantCreated(t *testing.T, s *SQLite, when string) {
	t.Helper()
	want := map[statement]string{
		"page_size": "8192", "auto_vacuum": "2", "journal_mode": "wal", "application_id": fmt.Sprint(applicationID),
	}
	for pragma, want := range want {
		if got, err := one[string](t.Context(), s.reads, "PRAGMA "+pragma); err != nil || got != want {
			t.Errorf("%s: %s is %s, %v, want %s", when, pragma, got, err, want)
		}
	}
}

// TestCreation holds the file to what can be set only when it is made, and its
// mode.
func TestCreation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "q ?#%.db")
	s := open(t, path)
	wantCreated(t, s, "at once")
	for file, want := range map[string]fs.FileMode{path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v; want %v", file, info, err, want)
		}
	}
	if _, err := s.pool.Exec("DELETE FROM workers"); err == nil {
		t.Error("a reader could write")
	}
	if runtime.GOOS == "linux" && !sqlite.OFDLockingEnabled() {
		t.Error("OFD locks are not in use")
	}
}

// TestWALStaysBounded: a statement shape that never lets the auto-checkpoint
// run would grow the WAL without bound.
func TestWALStaysBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := open(t, path)
	body := make([]byte, 16<<10)
	for i := range 3000 {
		in := queue.Insertion{
			Event:   &queue.Event{Source: "s", DeliveryID: fmt.Sprint(i), EventType: "push", ReceivedAt: 1, BodySHA256: strings.Repeat("0", 64)},
			Payload: &queue.Payload{Body: body},
		}
		if _, err := s.Insert(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if limit := int64(32 << 20); info.Size() > limit { // 1000 pages of 8 KiB, and what comes during a checkpoint
		t.Errorf("48 MB written left a WAL of %d bytes, want at most %d", info.Size(), limit)
	}
}

func TestIdleWriterEmptiesWAL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "q.db")
		s := open(t, path)
		if err := s.Register(t.Context(), queue.Worker{ID: "w", StartedAt: 1}, ""); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path + "-wal"); err != nil || info.Size() == 0 {
			t.Fatalf("after a write: %v, %v; want a WAL", info, err)
		}
		<-time.After(2 * checkpointEvery)
		synctest.Wait()
		if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
			t.Errorf("after a rest: %v, %v; want an empty WAL", info, err)
		}
	})
}

func TestWatchSeesOtherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	a, b := open(t, path), open(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan struct{}, 1)
	go func() {
		_ = a.Watch(ctx, func() {
			select {
			case seen <- struct{}{}:
			default:
			}
		})
	}()
	for {
		if err := b.Register(t.Context(), queue.Worker{ID: queue.Text(fmt.Sprint(queue.Clock().UnixNano())), StartedAt: 1}, ""); err != nil {
			t.Fatal(err)
		}
		select {
		case <-seen:
			return
		case <-time.After(10 * watchInterval): // it may not have begun
		}
	}
}

// holdWriter keeps the writer in a transaction until it is released.
func holdWriter(t *testing.T, s *SQLite) (release func()) {
	t.Helper()
	hold, held, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_, _ = write(t.Context(), s, op{}, func(context.Context, querier) (int, error) {
			close(held)
			<-hold
			return 0, nil
		})
	}()
	<-held
	return func() { close(hold); <-done }
}

// TestOneBadOperationCostsNoNeighbour: everything of a group is rolled back and
// run again apart, and only the bad one is told an error.
func TestOneBadOperationCostsNoNeighbour(t *testing.T) {
	s := open(t, "")
	bad := errors.New("bad")
	insert := func(id string) func(context.Context, querier) (int, error) {
		return func(ctx context.Context, q querier) (int, error) {
			_, err := exec(ctx, q, `INSERT INTO workers (id, host, pid, version, routes, slots, started_at, heartbeat_at)
				VALUES ($1, '', 0, '', x'', 0, 0, 0)`, id)
			if err == nil && id == "bad" {
				err = bad // after a write that must not stay
			}
			return 0, err
		}
	}
	release := holdWriter(t, s) // until the others wait
	var wg sync.WaitGroup
	ids := []string{"one", "bad", "two", "three"}
	errs := make([]error, len(ids))
	for i, id := range ids {
		wg.Go(func() { _, errs[i] = write(t.Context(), s, op{}, insert(id)) })
	}
	for len(s.w.urgent) < len(ids) {
		runtime.Gosched()
	}
	release()
	wg.Wait()
	for i, id := range ids {
		if want := map[bool]error{true: bad}[id == "bad"]; !errors.Is(errs[i], want) {
			t.Errorf("%s: got %v, want %v", id, errs[i], want)
		}
	}
	workers, err := all(t.Context(), s.pool, "SELECT id FROM workers ORDER BY id", nil, func(rows *sql.Rows, id *string) error { return rows.Scan(id) })
	if err != nil || fmt.Sprint(workers) != "[one three two]" {
		t.Errorf("stored: got %v, %v; want the three good ones", workers, err)
	}
}

func TestIntakeIsRefusedWhenTooMuchWaits(t *testing.T) {
	s := open(t, "")
	release := holdWriter(t, s)
	for range maxWaiting {
		s.w.intake <- &op{ctx: t.Context(), done: make(chan error, 1), fn: func(context.Context, querier) error { return nil }}
	}
	_, err := s.Insert(t.Context(), queue.Insertion{Event: &queue.Event{}, Payload: &queue.Payload{}})
	if !errors.Is(err, queue.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	release()
}

// TestCheckpointWaitsForNobody: under the busy timeout it would keep every
// writer waiting for the slowest reader.
func TestCheckpointWaitsForNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := open(t, path)
	if err := s.Register(t.Context(), queue.Worker{ID: "w", StartedAt: 1}, ""); err != nil {
		t.Fatal(err)
	}
	reader, err := s.pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for _, statement := range []string{"BEGIN", "SELECT count(*) FROM workers"} {
		if _, err := reader.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unregister(t.Context(), "w", 1); err != nil { // the reader needs what was before
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", dsn(path, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if done, err := emptyWAL(t.Context(), conn); done || err != nil {
		t.Errorf("beside a reader: got %v, %v; want false, at once", done, err)
	}
	if got, err := one[string](t.Context(), other, "PRAGMA journal_mode"); err != nil || got != "wal" {
		t.Errorf("journal_mode: %s, %v", got, err)
	}
	var timeout int
	if err := conn.QueryRowContext(t.Context(), "PRAGMA busy_timeout").Scan(&timeout); err != nil || timeout != 3_600_000 {
		t.Errorf("busy_timeout is %d afterwards, %v; want it as it was", timeout, err)
	}
}

// TestShrinkEnds on a file that was made elsewhere and can't give space back.
func TestShrinkEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	made := open(t, path)
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", dsn(path, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"PRAGMA journal_mode=DELETE", "PRAGMA auto_vacuum=NONE", "VACUUM", "PRAGMA journal_mode=WAL",
		"CREATE TABLE big (x)", "INSERT INTO big VALUES (zeroblob(1000000))", "DROP TABLE big",
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(statement, err)
		}
	}
	free, err := one[int](t.Context(), db, "PRAGMA freelist_count")
	if err != nil || free == 0 {
		t.Fatalf("%d pages are free, %v; want some", free, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path).Shrink(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOtherProgramsDatabase is neither written to nor read.
func TestOtherProgramsDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.db")
	db, err := sql.Open("sqlite", "file:"+dsnPath(path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE customers (name)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, create := range []bool{false, true} {
		_, err := Open(t.Context(), Options{Database: path, Create: create})
		if !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another program") {
			t.Errorf("create %v: got %v", create, err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed, %v", err)
	}
}

// TestCopyOpens: a copy made by VACUUM INTO is not in WAL mode.
func TestCopyOpens(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "q.db"))
	if _, err := s.writes.Exec("VACUUM INTO '" + filepath.Join(dir, "copy.db") + "'"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Database: filepath.Join(dir, "copy.db")}); err == nil || !strings.Contains(err.Error(), "orchestrate migrate") {
		t.Errorf("without leave to change it: got %v, want the next step", err)
	}
	copied := open(t, filepath.Join(dir, "copy.db"))
	if err := copied.Register(t.Context(), queue.Worker{ID: "w", StartedAt: 1}, ""); err != nil {
		t.Error(err)
	}
}

// TestClaimAsksTheClock: a worker that read the clock before it was set back
// takes nothing that another has put off since.
func TestClaimAsksTheClock(t *testing.T) {
	s := open(t, "")
	now := queue.Now()
	in := deliveryOf("d", "{}", "a")
	in.Jobs[0].DueAt = now.Add(time.Minute)
	if _, err := s.Insert(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if err := s.Register(t.Context(), queue.Worker{ID: "w", StartedAt: now}, ""); err != nil {
		t.Fatal(err)
	}
	for want, clock := range []queue.Time{now, now.Add(time.Hour)} {
		jobs, err := s.Claim(t.Context(), queue.ClaimParams{
			Route: "a", WorkerID: "w", Limit: 1, Now: now, DueBy: now.Add(time.Hour), Clock: func() queue.Time { return clock },
		})
		if err != nil || len(jobs) != want {
			t.Errorf("at %s: claimed %d (%v), want %d", clock, len(jobs), err, want)
		}
	}
}
