//go:build unix

package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/queue"
)

// service is a user who is not root.
const service = 65534

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("%s: no owner", path)
	}
	return stat.Uid
}

// serviceDir is a directory that belongs to the service, where that can be.
func serviceDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		must(t, os.Chown(dir, service, service))
	}
	return dir
}

// TestFilesBesideAreNoLinks: who may write to the directory of a database must not
// have root write to another file, make one, or give one away.
func TestFilesBesideAreNoLinks(t *testing.T) {
	t.Parallel()
	plants := map[string]func(victim, path string) error{
		"a symbolic link": os.Symlink, "a hard link": os.Link, "a link to nothing": func(victim, path string) error { return os.Symlink(victim+"-none", path) },
	}
	uses := map[string]func(database string) error{
		".lock": func(database string) error {
			_, err := openSQLite(t.Context(), Options{Database: database})
			return err
		},
		".migrate-lock": func(database string) error {
			_, err := MigrateUp(t.Context(), Options{Database: database})
			return err
		},
		".reserve": KeepReserve,
		".checked": func(database string) error {
			_, err := open(t, database).Check(t.Context())
			return errors.Join(err, queue.ErrUnavailable) // that it can't be kept is no error
		},
		markSuffix: func(database string) error {
			mark(database)
			return queue.ErrUnavailable
		},
	}
	dir, victim := serviceDir(t), filepath.Join(t.TempDir(), "victim")
	database := filepath.Join(dir, "q.db")
	must(t, open(t, database).Close())
	if os.Geteuid() == 0 {
		must(t, os.Chown(database, service, service))
	}
	must(t, os.WriteFile(victim, []byte("precious"), 0o600))
	old := queue.Clock().Add(-48 * time.Hour)
	must(t, os.Chtimes(victim, old, old))
	before := owner(t, victim)
	for suffix, use := range uses {
		for name, plant := range plants {
			_ = os.Remove(database + suffix)
			must(t, plant(victim, database+suffix))
			if err := use(database); !errors.Is(err, queue.ErrUnavailable) {
				t.Errorf("%s at %s: got %v, want ErrUnavailable", name, suffix, err)
			}
			if got := string(read(t, victim)); got != "precious" || owner(t, victim) != before {
				t.Errorf("%s at %s: what it leads to has %.20q, of user %d; want it as it was", name, suffix, got, owner(t, victim))
			}
			if _, err := os.Stat(victim + "-none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s at %s: a file was made elsewhere", name, suffix)
			}
			_ = os.Remove(database + suffix)
		}
	}
}

// TestRootLeavesTheDaemonIn: what root makes where there is no database yet is its
// directory's user's, as what a restore puts there.
func TestRootLeavesTheDaemonIn(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "b.db")
	source := open(t, "")
	deliver(t, source, 0, 1)
	backup(t, source.database, file)
	dir := serviceDir(t)
	database := filepath.Join(dir, "q.db")
	unlock, err := lockMigrations(t.Context(), Options{Database: database})
	must(t, err)
	unlock()
	must(t, KeepReserve(database))
	restore(t, database, file)
	for _, suffix := range []string{"", ".lock", ".migrate-lock", ".reserve"} {
		if got, want := owner(t, database+suffix), owner(t, dir); got != want {
			t.Errorf("%s is of user %d, want %d", database+suffix, got, want)
		}
	}
}
