//go:build unix

package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// noFollow opens no link, and waits for nobody at the other end of a pipe.
const noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// oneFile: what has another name may be somebody else's.
func oneFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || ok && stat.Nlink > 1 {
		return notPlain(f.Name())
	}
	return nil
}

// likeOwner gives a file that root made to the owner of the database, or where that
// is not there yet, to that of its directory.
func likeOwner(f *os.File, database string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(database)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(filepath.Dir(database))
	}
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// isOpenElsewhere tells whether another has a lock of SQLite's: in WAL mode that is so for
// as long as it has the database open.
func isOpenElsewhere(database string) (locked bool, err error) {
	f, err := os.Open(database) //nolint:gosec // G304: the operator names it
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart}
	err = syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock)
	return lock.Type != syscall.F_UNLCK, err
}
