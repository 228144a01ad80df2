package store

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"orchestrate/internal/queue"
)

// killed are the files as a kill leaves them.
type killed struct {
	main, log, index []byte
	rows             int64 // that were committed
}

func (k killed) files(t *testing.T, path string) {
	t.Helper()
	must(t, errors.Join(os.WriteFile(path, k.main, 0o600), os.WriteFile(path+"-wal", k.log, 0o600), os.WriteFile(path+"-shm", k.index, 0o600)))
}

func asKilled(t *testing.T, path string) killed {
	t.Helper()
	return killed{main: read(t, path), log: read(t, path+"-wal"), index: read(t, path+"-shm")}
}

const walFrame = frameHeader + pageSize

// logs makes logs that begin alike, by real transactions.
type logs struct{ base killed }

func newLogs(t *testing.T) logs {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "q.db"))
	deliver(t, s, 0, 3)
	execIn(t, s, "CREATE TABLE filler (b BLOB)")
	return logs{asKilled(t, s.database)}
}

// after has transactions of so many rows each, about as many frames. A negative
// number begins the log anew, then commits as many.
func (l logs) after(t *testing.T, transactions ...int) (k killed) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "q.db")
	l.base.files(t, path)
	db, err := sql.Open("sqlite", dsn(path, time.Second))
	must(t, err)
	db.SetMaxOpenConns(1)
	rows := int64(0)
	run := func(statement string) {
		_, err := db.ExecContext(t.Context(), statement)
		must(t, err)
	}
	for _, n := range transactions {
		if n < 0 {
			run("PRAGMA wal_checkpoint(RESTART)")
			n = -n
		}
		run(fmt.Sprintf(`INSERT INTO filler WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			SELECT randomblob(8000) FROM n`, n))
		rows += int64(n)
	}
	k = asKilled(t, path)
	k.rows = rows
	must(t, db.Close())
	return k
}

// over lays a log over those of writers that were killed before the index counted
// what they wrote, the first of them first: what is longer shows behind its end.
func over(last killed, before ...killed) killed {
	var all []byte
	for _, k := range append(before, last) {
		if rest := len(k.log); rest < len(all) {
			all = append(append([]byte(nil), k.log...), all[rest:]...)
		} else {
			all = append([]byte(nil), k.log...)
		}
	}
	last.log = all
	return last
}

// TestSoundLogs: what kills, losses of power, readers and checkpoints leave is no
// damage, and all that was committed is read.
func TestSoundLogs(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	a, b, c := l.after(t, 30), l.after(t, 15), l.after(t, 4)
	d := l.after(t, 1, 1, 1)
	if len(a.log) <= len(b.log) || len(b.log) <= len(c.log) || len(c.log) <= walFrame {
		t.Fatalf("logs of %d, %d, %d bytes; want each shorter", len(a.log), len(b.log), len(c.log))
	}
	torn := over(c, a, b) // the power fails while c is synced, and its first frame is not on disk
	torn.log[len(l.base.log)+1000] ^= 4
	torn.index, torn.rows = nil, 0
	midway := over(killed{l.base.main, c.log[:len(c.log)-walFrame], l.base.index, 0}, a, b) // before it wrote its commit
	unseen := over(c, a, b)                                                                 // in its sync: it is found, and counts
	unseen.index = l.base.index
	for _, tt := range []struct {
		name string
		killed
	}{
		{"one killed in its sync, then a commit", over(c, a)},
		{"two", over(c, a, b)},
		{"three, the last longer", over(c, b, c, a)},
		{"many, then commits", over(d, l.after(t, 40), a, l.after(t, 20), b, l.after(t, 8))},
		{"two, and the last while it wrote", midway},
		{"two, and the last in its sync", unseen},
		{"two, and the last by a loss of power", torn},
		{"begun anew, over many commits", l.after(t, 1, 1, 1, 1, 1, -1)},
		{"begun anew, over those of killed", over(l.after(t, 1, 1, -2), a, b)},
	} {
		for _, index := range [][]byte{tt.index, nil} {
			path := filepath.Join(t.TempDir(), "q.db")
			killed{tt.main, tt.log, index, 0}.files(t, path)
			wantRows(t, fmt.Sprintf("%s, index of %d bytes", tt.name, len(index)), path, tt.rows)
		}
	}
}

func wantRows(t *testing.T, name, path string, want int64) {
	t.Helper()
	s, err := openSQLite(t.Context(), Options{Database: path})
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	got, err := one[int64](t.Context(), s.reads, "SELECT count(*) FROM filler")
	if err := errors.Join(err, s.Close()); err != nil || got != want {
		t.Errorf("%s: got %d rows, %v; want %d", name, got, err, want)
	}
}

// TestSoundLogOfALaggingReader, whose snapshot keeps the log from being begun anew.
func TestSoundLogOfALaggingReader(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "q.db"))
	execIn(t, s, "CREATE TABLE filler (b BLOB)")
	reader, err := s.pool.Conn(t.Context())
	must(t, err)
	_, err = reader.ExecContext(t.Context(), "BEGIN DEFERRED")
	must(t, err)
	_, err = one[int64](t.Context(), reader, "SELECT count(*) FROM filler")
	must(t, err)
	for range 5 {
		execIn(t, s, "INSERT INTO filler VALUES (randomblob(8000))")
		execFile(t, s.database, "PRAGMA wal_checkpoint(PASSIVE)")
		l, err := walLength(t.Context(), s.reads, "NOOP")
		if must(t, err); l.moved >= l.frames {
			t.Fatalf("%+v: the reader keeps nothing", l)
		}
	}
	path := filepath.Join(t.TempDir(), "q.db")
	crash(t, s, path)
	_, err = reader.ExecContext(t.Context(), "ROLLBACK")
	must(t, errors.Join(err, reader.Close()))
	wantRows(t, "killed", path, 5)
}

// TestDamageBeforeEndsOfTheKilled is found as it is without them: with the index
// wherever it is, without where two whole commits come behind it.
func TestDamageBeforeEndsOfTheKilled(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	k := over(l.after(t, 1, 1, 1, 1), l.after(t, 30), l.after(t, 20))
	path := filepath.Join(t.TempDir(), "q.db")
	k.files(t, path)
	all := transactions(t, path+"-wal")
	committed := len(all) - 2 // two are of the killed
	for n := all[committed-4]; n < all[committed-1]; n++ {
		for _, index := range [][]byte{k.index, nil} {
			at := logHeader + n*walFrame + 5000
			k.log[at] ^= 16
			killed{k.main, k.log, index, 0}.files(t, path)
			k.log[at] ^= 16
			err := inspect(path)
			if want := index != nil || n+1 < all[committed-2]; errors.Is(err, queue.ErrDamaged) != want {
				t.Errorf("frame %d of commits at %v, index of %d bytes: got %v, want damage: %v", n+1, all[:committed], len(index), err, want)
			}
		}
	}
}

// TestDamageOfAMovedLog: all of it is in the database, but SQLite takes the pages
// before the damage from the log, which are older.
func TestDamageOfAMovedLog(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "q.db"))
	deliver(t, s, 0, 20)
	execFile(t, s.database, "PRAGMA wal_checkpoint(PASSIVE)")
	l, err := walLength(t.Context(), s.reads, "NOOP")
	if must(t, err); l.moved != l.frames {
		t.Fatalf("%+v: it was not moved", l)
	}
	for name, tt := range map[string]struct {
		at   int64 // in the log
		want error
	}{
		"in the middle":       {logHeader + int64(l.frames/2)*walFrame + 5000, queue.ErrDamaged},
		"in its first frame":  {logHeader + 5000, nil}, // nothing is taken from it
		"in its header":       {17, nil},
		"in its first commit": {logHeader + int64(transactions(t, s.database+"-wal")[0])*walFrame + 5000, queue.ErrDamaged},
	} {
		path := filepath.Join(t.TempDir(), "q.db")
		crash(t, s, path)
		damage(t, path+"-wal", 8, tt.at)
		err := inspect(path)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
		if err != nil {
			continue
		}
		r := open(t, path)
		if n, err := one[int64](t.Context(), r.reads, "SELECT count(*) FROM webhook_events"); err != nil || n != 20 {
			t.Errorf("%s: got %d events, %v; want 20", name, n, err)
		}
	}
}
