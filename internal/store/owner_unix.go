//go:build unix

package store

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// likeOwner gives a file that root made to the owner of another, if that is
// there, as SQLite does with the files beside a database: a command that root ran
// must not keep the daemon out.
func likeOwner(path, like string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(like)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return os.Chown(path, int(owner.Uid), int(owner.Gid))
	}
	return nil
}
