package store

import (
	"path/filepath"
	"testing"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/storetest"
)

func TestSQLite(t *testing.T) {
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
	s, err := Open(t.Context(), Options{Path: path, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
