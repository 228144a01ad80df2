package store

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestLogGrowsWhileItIsRead: what a program without our lock commits between the
// reading of the index and that of the log is no damage.
func TestLogGrowsWhileItIsRead(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	later := l.after(t, 1)
	path := filepath.Join(t.TempDir(), "q.db")
	must(t, errors.Join(os.WriteFile(path, l.base.main, 0o600), os.WriteFile(path+"-wal", l.base.log, 0o600), syscall.Mkfifo(path+"-shm", 0o600)))
	wrote := make(chan error)
	go func() {
		index, err := os.OpenFile(path+"-shm", os.O_WRONLY, 0) // when it is read
		if err == nil {
			err = os.WriteFile(path+"-wal", later.log, 0o600)
		}
		if err == nil {
			_, err = index.Write(later.index[:2*indexHeader+4])
			err = errors.Join(err, index.Close())
		}
		wrote <- err
	}()
	err := inspect(path)
	if end, err := os.OpenFile(path+"-shm", os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil { // where it was not read
		defer func() { _ = end.Close() }()
	}
	if err := errors.Join(err, <-wrote); err != nil {
		t.Error(err)
	}
}
