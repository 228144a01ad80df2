package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"

	"orchestrate/internal/queue"
)

// reserveSize is room for a WAL of longWAL frames, which must go into the
// database before anything can be deleted, and for the deleting itself.
const reserveSize = 16 << 20

const reserveSuffix = ".reserve"

func reservePath(database string) string { return realPath(database) + reserveSuffix }

// KeepReserve keeps a file of 16 MiB beside a SQLite database, which a cleanup
// gives up first: to delete takes room in the WAL, and a full disk has none. The
// error says that there is no room for it; then there is no file either.
func KeepReserve(database string) (err error) {
	path := reservePath(database)
	if info, err := os.Lstat(path); isPostgres(database) || err == nil && info.Size() == reserveSize {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep a reserve of %d MiB for cleanup: %w", reserveSize>>20, errors.Join(err, FreeReserve(database)))
		}
	}()
	f, err := openBeside(path, realPath(database), os.O_CREATE|os.O_WRONLY)
	if err != nil {
		return err
	}
	if err = f.Truncate(0); err == nil {
		// By chance, as some filesystems keep no room for zeros.
		_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), reserveSize)
	}
	return errors.Join(err, f.Close())
}

// FreeReserve gives the room back.
func FreeReserve(database string) error {
	if isPostgres(database) {
		return nil
	}
	err := os.Remove(reservePath(database))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: free the reserve: %w", queue.ErrUnavailable, err)
	}
	return nil
}
