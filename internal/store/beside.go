package store

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"orchestrate/internal/queue"

	"github.com/gofrs/flock"
)

const lockSuffix = ".lock"

// reserved are the ends of the names of what lies beside a database.
var reserved = append(parts(), lockSuffix, migrateSuffix, restoringSuffix, restoredSuffix, reserveSuffix, checkedSuffix, markSuffix)

// checkName refuses the name of a database, or of a backup, that would be taken for
// a part of another.
func checkName(path string) error {
	for _, suffix := range reserved {
		if name, ok := strings.CutSuffix(path, suffix); ok {
			return fmt.Errorf("%w: %s: names that end in %s are for what lies beside a database; take another, as %s",
				queue.ErrInvalid, path, suffix, name+"-"+suffix[1:]+".db")
		}
	}
	return nil
}

// openBeside opens a file of ours beside a database. The daemon's user may write to
// that directory, and root runs commands, too: what lies there under our name may
// lead elsewhere, to a file that root must neither write to nor give away. A file
// that root made gets the owner of the database, as SQLite does with its own: a
// command that root ran must not keep the daemon out.
func openBeside(path, database string, flag int) (f *os.File, err error) {
	f, err = os.OpenFile(path, flag|noFollow, 0o600) //nolint:gosec // G304: beside the database, which the operator names
	if err != nil {
		if info, lstat := os.Lstat(path); lstat == nil && !info.Mode().IsRegular() {
			err = notPlain(path)
		}
		return nil, err
	}
	if err = oneFile(f); err == nil {
		err = likeOwner(f, database)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func notPlain(path string) error {
	return fmt.Errorf("%w: %s is a link, or no file, which orchestrate does not make; remove it", queue.ErrUnavailable, path)
}

// writeBeside replaces what such a file holds.
func writeBeside(path, database, content string) (err error) {
	f, err := openBeside(path, database, os.O_CREATE|os.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return err
}

// lockBeside is a lock that is not held yet.
func lockBeside(path, database string) (*flock.Flock, error) {
	f, err := openBeside(path, database, os.O_CREATE|os.O_RDONLY)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, notLocked(path, err)
	}
	return flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDONLY|noFollow), flock.SetPermissions(0o600)), nil
}

// notLocked is an error of a lock, but that somebody else holds it.
func notLocked(path string, err error) error {
	if errors.Is(err, queue.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: lock %s: %w; may this user write to that directory?", queue.ErrUnavailable, path, err)
}
