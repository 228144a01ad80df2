package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

// TestDamagedDatabaseKeepsItsLog: whoever finds the file damaged, or another's,
// changes nothing, so that what its log holds is there when the file is put back.
func TestDamagedDatabaseKeepsItsLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "q.db"))
	deliver(t, s, 0, 40)
	execFile(t, s.database, "PRAGMA wal_checkpoint(TRUNCATE)")
	deliver(t, s, 40, 50)
	killed := filepath.Join(dir, "killed.db")
	crash(t, s, killed)
	must(t, s.Close())
	other := filepath.Join(dir, "other.db")
	must(t, os.WriteFile(other, nil, 0o600))
	execFile(t, other, "CREATE TABLE notes (n TEXT)")
	whole, log := read(t, killed), read(t, killed+"-wal")

	for name, content := range map[string][]byte{
		"cut to a page":      whole[:pageSize],
		"cut in a page":      whole[:60_000],
		"zeroed pages":       append(append(whole[:pageSize:pageSize], make([]byte, 20*pageSize)...), whole[21*pageSize:]...),
		"another program's":  read(t, other),
		"no database at all": []byte("some text"),
	} {
		for _, o := range []Options{{}, {Create: true}} {
			must(t, os.WriteFile(killed, content, 0o600))
			o.Database = killed
			found, err := openSQLite(t.Context(), o)
			if err == nil { // it is met by whoever reads
				_, err = found.List(t.Context(), queue.Filter{}, 1000)
				must(t, found.Close())
			}
			if !errors.Is(err, queue.ErrDamaged) {
				t.Errorf("%s: got %v, want ErrDamaged", name, err)
			}
			if now := read(t, killed); !bytes.Equal(now, content) {
				t.Errorf("%s: the file was changed: %d bytes, and then %d", name, len(content), len(now))
			}
			if now, err := os.ReadFile(killed + "-wal"); err != nil || !bytes.Equal(now, log) {
				t.Fatalf("%s: the log was changed: %d bytes, and then %d; %v", name, len(log), len(now), err)
			}
		}
	}
	must(t, os.WriteFile(killed, whole, 0o600))
	if events, err := open(t, killed).List(t.Context(), queue.Filter{}, 1000); err != nil || len(events) != 50 {
		t.Errorf("with the file put back: %d events, %v; want 50", len(events), err)
	}
}

// TestFilesTakenAway: nothing is acknowledged into files that nobody finds again.
func TestFilesTakenAway(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(t *testing.T, path string){
		"database removed": func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"database moved":   func(t *testing.T, path string) { must(t, os.Rename(path, path+".gone")) },
		"database replaced": func(t *testing.T, path string) {
			must(t, os.WriteFile(path+".new", read(t, path), 0o600))
			must(t, os.Rename(path+".new", path))
		},
		"log removed": func(t *testing.T, path string) { must(t, os.Remove(path+"-wal")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, filepath.Join(t.TempDir(), "q.db"))
			deliver(t, s, 0, 3)
			take(t, s.database)
			_, err := s.Insert(t.Context(), signed("late", []byte("{}")))
			if !errors.Is(err, queue.ErrDamaged) || !strings.Contains(err.Error(), "removed or replaced while it was open") {
				t.Errorf("a delivery: got %v, want ErrDamaged", err)
			}
			select {
			case <-s.Broken():
			default:
				t.Error("the process is to go on")
			}
			if _, err := s.Event(t.Context(), 1); !errors.Is(err, queue.ErrDamaged) {
				t.Errorf("a read: got %v, want ErrDamaged", err)
			}
		})
	}
}
