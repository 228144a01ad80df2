package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// damage flips the bits of mask at an offset; -1 overwrites the page there.
func damage(t testing.TB, path string, mask int, at int64) {
	t.Helper()
	b := read(t, path)
	if mask >= 0 {
		b[at] ^= byte(mask)
	} else {
		r := rand.New(rand.NewPCG(1, uint64(at)))
		page := b[at/pageSize*pageSize:][:pageSize]
		for i := range page {
			page[i] = byte(r.Uint32())
		}
	}
	must(t, os.WriteFile(path, b, 0o600))
}

// crash copies the files of a store as a kill would leave them.
func crash(t testing.TB, s *SQLite, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		must(t, os.WriteFile(to+suffix, read(t, s.database+suffix), 0o600))
	}
}

func setVersion(t testing.TB, path string, version int) {
	t.Helper()
	execFile(t, path, fmt.Sprintf("INSERT INTO goose_db_version (version_id, is_applied) VALUES (%d, 1)", version))
}

func toWAL(t testing.TB, path string) {
	t.Helper()
	execFile(t, path, "PRAGMA journal_mode=WAL")
}

func execFile(t testing.TB, path, statement string) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	db, err := sql.Open("sqlite", "file:"+dsnPath(path))
	must(t, err)
	_, err = db.ExecContext(context.Background(), statement)
	must(t, errors.Join(err, db.Close()))
	must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// TestDamageIsFound at start, before anything is changed, or by the check.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "q.db"))
	deliver(t, s, 0, 40)
	execFile(t, s.database, "PRAGMA wal_checkpoint(TRUNCATE)")
	deliver(t, s, 40, 60)
	killed, closed := filepath.Join(dir, "killed.db"), filepath.Join(dir, "closed.db")
	crash(t, s, killed)
	must(t, s.Close())
	must(t, os.Rename(s.database, closed))
	log := int64(len(read(t, killed+"-wal")))
	frame := int64(frameHeader + pageSize)
	last := log - frame
	torn := transactions(t, killed+"-wal")
	if n := len(torn); n < 3 || torn[n-1]-torn[n-2] < 3 {
		t.Fatalf("commits at %v: the last one has too few frames", torn)
	}
	first := logHeader + int64(torn[len(torn)-2])*frame

	for _, tt := range []struct {
		name   string
		from   string
		damage func(t *testing.T, path string)
		want   error // of opening it; nil: it opens
		says   string
	}{
		{"none, closed", closed, func(*testing.T, string) {}, nil, ""},
		{"none, killed", killed, func(*testing.T, string) {}, nil, ""},
		{"header", closed, func(t *testing.T, path string) { damage(t, path, 0x40, 3) }, queue.ErrUnavailable, "its header is damaged"},
		{"first page", closed, func(t *testing.T, path string) { damage(t, path, -1, 0) }, queue.ErrUnavailable, "its header is damaged"},
		{"cut in half", closed, func(t *testing.T, path string) { must(t, os.Truncate(path, int64(len(read(t, path)))/2)) }, queue.ErrDamaged, "orchestrate restore"},
		{"cut to nothing, with its log", killed, func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) }, queue.ErrDamaged, "missing or empty"},
		{"gone, but for its log", killed, func(t *testing.T, path string) { must(t, os.Remove(path)) }, queue.ErrDamaged, "missing or empty"},
		{"log gone", killed, func(t *testing.T, path string) { must(t, os.Remove(path+"-wal")) }, queue.ErrDamaged, "its log is missing"},
		{"log: header", killed, func(t *testing.T, path string) { damage(t, path+"-wal", 1, 17) }, queue.ErrDamaged, "header of its log"},
		{"log: header, no index", killed, func(t *testing.T, path string) {
			damage(t, path+"-wal", 1, 17)
			must(t, os.Remove(path+"-shm"))
		}, queue.ErrDamaged, "header of its log"},
		{"log: first frame", killed, func(t *testing.T, path string) { damage(t, path+"-wal", 8, logHeader+100) }, queue.ErrDamaged, "damaged behind frame 0"},
		{"log: middle, a page", killed, func(t *testing.T, path string) { damage(t, path+"-wal", 8, log/frame/2*frame+500) }, queue.ErrDamaged, "its log is damaged"},
		{"log: middle, no index", killed, func(t *testing.T, path string) {
			damage(t, path+"-wal", 8, log/frame/2*frame+500)
			must(t, os.Remove(path+"-shm"))
		}, queue.ErrDamaged, "its log is damaged"},
		{"log: last frame", killed, func(t *testing.T, path string) { damage(t, path+"-wal", 128, last+5000) }, queue.ErrDamaged, "its log is damaged"},
		{"log: last checksum", killed, func(t *testing.T, path string) { damage(t, path+"-wal", 128, last+20) }, queue.ErrDamaged, "its log is damaged"},
		{"log: cut off", killed, func(t *testing.T, path string) { must(t, os.Truncate(path+"-wal", log/2)) }, queue.ErrDamaged, "its log is damaged"},
		// What a loss of power may leave of the last transaction is no damage.
		{"last transaction torn by a loss of power", killed, func(t *testing.T, path string) {
			damage(t, path+"-wal", 128, last+5000)
			must(t, os.Remove(path+"-shm"))
		}, nil, ""},
		{"last transaction, its begin torn by a loss of power", killed, func(t *testing.T, path string) {
			damage(t, path+"-wal", 128, first+5000)
			must(t, os.Remove(path+"-shm"))
		}, nil, ""},
		{"log that was never synced", closed, func(t *testing.T, path string) { must(t, os.WriteFile(path+"-wal", make([]byte, 3*frame), 0o600)) }, nil, ""},
		{"log shorter than its header", closed, func(t *testing.T, path string) { must(t, os.WriteFile(path+"-wal", []byte{0x37}, 0o600)) }, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "q.db")
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if b, err := os.ReadFile(tt.from + suffix); err == nil {
					must(t, os.WriteFile(path+suffix, b, 0o600))
				}
			}
			tt.damage(t, path)
			before := files(t, path)
			for _, create := range []bool{false, true} {
				s, err := openSQLite(t.Context(), Options{Database: path, Create: create})
				if err == nil {
					err = errors.Join(err, s.Close())
				}
				if !create && tt.name == "gone, but for its log" {
					continue // that there is none is said by another error
				}
				if !errors.Is(err, tt.want) || tt.want != nil && (!strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), path)) {
					t.Errorf("create %v: got %v, want %v with %q", create, err, tt.want, tt.says)
				}
				if got := files(t, path); tt.want != nil && !slices.Equal(got, before) {
					t.Error("the refusal changed the files")
				}
			}
		})
	}
}

// transactions are the numbers of the frames that commit one.
func transactions(t testing.TB, log string) (commits []int) {
	t.Helper()
	b := read(t, log)[logHeader:]
	for n := 1; len(b) >= frameHeader+pageSize; n++ {
		if binary.BigEndian.Uint32(b[4:]) != 0 {
			commits = append(commits, n)
		}
		b = b[frameHeader+pageSize:]
	}
	return commits
}

// files are what is in the three files.
func files(t testing.TB, path string) (all []string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		b, _ := os.ReadFile(path + suffix)
		all = append(all, string(b))
	}
	return all
}

// TestGoOnWithWhatCanBeRead: restoring a database from itself takes what is
// before the damage of the log, and keeps the files as they were.
func TestGoOnWithWhatCanBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "q.db")
	s := open(t, filepath.Join(dir, "s.db"))
	deliver(t, s, 0, 30)
	execFile(t, s.database, "PRAGMA wal_checkpoint(TRUNCATE)")
	deliver(t, s, 30, 60)
	crash(t, s, path)
	damage(t, path+"-wal", 1, int64(len(read(t, path+"-wal")))/2)
	before := files(t, path)
	done := restore(t, path, path)
	if done.Events < 30 || done.Events >= 60 || !strings.Contains(done.Lost, "its log is damaged") {
		t.Errorf("got %+v, want some of 30 to 60 events, and what was lost", done)
	}
	if !slices.Equal(files(t, done.Kept), before) {
		t.Error("the files that were kept are not as they were")
	}
	r := open(t, path)
	if e, err := r.Event(t.Context(), 30); err != nil || e.DeliveryID != "d29" {
		t.Errorf("event 30: %+v, %v", e, err)
	}
}

// TestEveryPage: whichever page is overwritten, it is found: when the database is
// opened, or by the check.
func TestEveryPage(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "q.db"))
	deliver(t, s, 0, 20)
	must(t, s.Close())
	whole := read(t, s.database)
	if b := binary.BigEndian.Uint32(whole[36:]); b > 0 {
		t.Fatalf("%d free pages, of which the content is nothing", b)
	}
	path := filepath.Join(t.TempDir(), "q.db")
	for at := int64(0); at < int64(len(whole)); at += pageSize {
		must(t, os.WriteFile(path, whole, 0o600))
		damage(t, path, -1, at)
		checked, err := checkFile(t, path)
		if !errors.Is(err, queue.ErrDamaged) && !errors.Is(err, queue.ErrUnavailable) && len(checked.DamagedPayloads) == 0 {
			t.Errorf("page %d: got %+v, %v; want ErrDamaged", at/pageSize+1, checked, err)
		}
		if err != nil && (!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "orchestrate restore")) {
			t.Errorf("page %d: %v does not say which file, and what to do", at/pageSize+1, err)
		}
	}
}

// checkFile opens a database and checks it, due or not.
func checkFile(t testing.TB, path string) (queue.Checked, error) {
	t.Helper()
	_ = os.Remove(path + ".checked")
	s, err := openSQLite(t.Context(), Options{Database: path})
	if err != nil {
		return queue.Checked{}, err
	}
	checked, err := s.Check(t.Context())
	return checked, errors.Join(err, s.Close())
}

// TestCheck is made at most daily, and finds what SQLite can't.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "q.db"))
	deliver(t, s, 0, 120)
	check := func(want queue.CheckState, damaged ...int64) {
		t.Helper()
		got, err := s.Check(t.Context())
		if err != nil || got.State != want || !slices.Equal(got.DamagedPayloads, damaged) {
			t.Errorf("got %+v, %v; want %s with %v", got, err, want, damaged)
		}
	}
	check(queue.CheckPassed)
	execIn(t, s, `UPDATE webhook_payloads SET body = CAST('Body' || substr(CAST(body AS TEXT), 5) AS BLOB) WHERE event_id IN (70, 110)`)
	check(queue.CheckNotDue)
	stamp := s.database + ".checked"
	yesterday := queue.Clock().Add(-checkEvery)
	must(t, os.Chtimes(stamp, yesterday, yesterday))
	check(queue.CheckPassed, 70, 110)
	must(t, os.WriteFile(stamp, []byte("70\n"), 0o600)) // where it was broken off
	future := queue.Clock().Add(checkEvery)
	must(t, os.Chtimes(stamp, future, future))
	check(queue.CheckPassed, 110)

	file := filepath.Join(t.TempDir(), "b.db")
	if snap := backup(t, s.database, file); !slices.Equal(snap.DamagedPayloads, []int64{70, 110}) {
		t.Errorf("the backup found %v, want 70 and 110", snap.DamagedPayloads)
	}
	if done := restore(t, filepath.Join(t.TempDir(), "r.db"), file); !slices.Equal(done.DamagedPayloads, []int64{70, 110}) {
		t.Errorf("the restore found %v, want 70 and 110", done.DamagedPayloads)
	}
}

// TestCheckBrokenOff: where the structure takes too long, bodies are compared all
// the same, and it is not tried again at once.
func TestCheckBrokenOff(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "q.db"))
	deliver(t, s, 0, 70)
	execIn(t, s, `UPDATE webhook_payloads SET body = CAST('Body' AS BLOB) WHERE event_id = 70`)
	got, err := s.checkWithin(t.Context(), 0)
	if err != nil || got.State != queue.CheckUnfinished || !slices.Equal(got.DamagedPayloads, []int64{70}) {
		t.Errorf("got %+v, %v; want unfinished, with 70", got, err)
	}
	if got, err := s.Check(t.Context()); err != nil || got.State != queue.CheckNotDue {
		t.Errorf("the next: got %+v, %v; want not_due", got, err)
	}
}

// TestBackupOfDamage is none.
func TestBackupOfDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "q.db")
	s := open(t, path)
	deliver(t, s, 0, 60)
	must(t, s.Close())
	damage(t, path, -1, int64(len(read(t, path)))-pageSize)
	_, err := Backup(t.Context(), backupOf(path, filepath.Join(dir, "b.db")))
	if !errors.Is(err, queue.ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
	wantFiles(t, dir, "q.db")
}

// TestDamageWhileWorking: once a read or a write has met it, nothing more is
// acknowledged.
func TestDamageWhileWorking(t *testing.T) {
	t.Parallel()
	for name, meet := range map[string]func(*SQLite) error{
		"a read": func(s *SQLite) error {
			_, err := s.Payload(t.Context(), 1)
			return err
		},
		"a write": func(s *SQLite) error {
			_, err := s.Insert(t.Context(), signed("new", []byte("{}"), "r"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, "")
			path := s.database
			deliver(t, s, 0, 60)
			must(t, s.Close())
			pages := int64(len(read(t, path))) / pageSize
			s = open(t, path)
			for page := int64(6); page < pages; page++ {
				damage(t, path, -1, page*pageSize)
			}
			if err := meet(s); !errors.Is(err, queue.ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "orchestrate restore") {
				t.Errorf("got %v, want ErrDamaged with the file, and what to do", err)
			}
			select {
			case <-s.Broken():
			default:
				t.Error("it is not broken")
			}
			if err := s.WhyBroken(); !errors.Is(err, queue.ErrDamaged) {
				t.Errorf("why: got %v", err)
			}
			if _, err := s.Insert(t.Context(), signed("later", []byte("{}"), "r")); !errors.Is(err, queue.ErrDamaged) {
				t.Errorf("an insert afterwards: got %v, want ErrDamaged", err)
			}
		})
	}
}
