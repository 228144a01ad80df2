package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
)

// SQLite ends its log at the first frame whose checksum fails: that is what a
// loss of power leaves of a transaction that was under way. A frame that was
// damaged later looks the same, and all transactions behind it, though they were
// synced, would be gone without a word. What tells the two apart are:
//
//   - the index of the log (-shm), which counts the frames that were committed,
//     after their sync; it is right after a kill, and behind after a loss of power;
//   - commits behind the break: one may be the transaction that was under way,
//     whose pages reached the disk in any order. A second one that goes on from it
//     was only begun when the first had been synced.
//
// They have to go on from each other. A writer that is killed while it syncs its
// commit, beside a process that lives on, leaves a commit that the index doesn't
// count; what is committed next is written over its begin, and its end stays. Any
// number of such ends may lie behind each other, each with a commit, and nothing
// is lost. But none of them goes on from another, as each was begun where the
// index ended.
//
// Nothing else leaves commits there. A log that is begun anew gets another salt,
// and a reader that lags keeps it from that, so that it only grows.
//
// The formats are those of sqlite.org/walformat.html.

const (
	logHeader   = 32
	frameHeader = 24
	indexHeader = 48 // twice, then what was moved into the database
)

// frames are counts of a log's.
type frames struct {
	header    bool // it can be read
	salt      [8]byte
	committed uint32 // by the last commit that SQLite finds
	behind    uint32 // by the last one behind a break that goes on from another; 0: none does
}

// inspectLog is ErrDamaged where committed frames can't be read any more. To open
// these files is safe as nobody has the database open; and no lock is on the log.
func inspectLog(database string) error {
	f, err := os.Open(database + "-wal") //nolint:gosec // G304: the operator names it
	if err != nil {
		return err
	}
	// The index first: a program that knows nothing of our lock may be committing.
	index, err := readIndex(database + "-shm")
	if err != nil {
		return errors.Join(err, f.Close())
	}
	log, err := readLog(bufio.NewReaderSize(f, 1<<20))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	lost := log.behind
	if index.salt == log.salt || !log.header {
		lost = max(lost, index.committed)
	}
	switch { // where SQLite takes nothing from the log, what was moved is there
	case !log.header && (lost == 0 || lost > index.moved):
		return damaged(database, "the header of its log is damaged, %s-wal: what was acknowledged since it was begun can't be read", database)
	case lost > log.committed && (log.committed > 0 || lost > index.moved):
		return damaged(database, "its log is damaged behind frame %d, %s-wal: what was acknowledged from there to frame %d can't be read",
			log.committed, database, lost)
	}
	return nil
}

// readLog walks the frames as SQLite's recovery does, and on.
func readLog(r io.Reader) (log frames, err error) {
	var head [logHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || head == [logHeader]byte{} {
		log.header = true // it was never synced, so that nothing behind it was
		return log, ended(err)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	magic := binary.BigEndian.Uint32(head[:])
	if magic&1 == 1 {
		order = binary.BigEndian
	}
	size := binary.BigEndian.Uint32(head[8:])
	sum := checksum(order, head[:24], [2]uint32{})
	if magic|1 != 0x377f0683 || stored(head[24:]) != sum || size < 512 || size > 65536 {
		_, err := io.ReadFull(r, make([]byte, frameHeader))
		log.header = err != nil // without a frame it says nothing
		return log, ended(err)
	}
	log.header = true
	copy(log.salt[:], head[16:24])
	frame := make([]byte, frameHeader+int(size))
	broken, commits := false, 0
	for n := uint32(1); ; n++ {
		if _, err := io.ReadFull(r, frame); err != nil {
			return log, ended(err)
		}
		want := checksum(order, frame[frameHeader:], checksum(order, frame[:8], sum))
		sum = stored(frame[16:])
		goesOn := sum == want && bytes.Equal(frame[8:16], log.salt[:]) // by what its neighbour holds
		commit := binary.BigEndian.Uint32(frame[4:]) != 0
		broken = broken || !goesOn
		switch {
		case !goesOn:
			commits = 0
		case !broken && commit:
			log.committed = n
		case commit:
			if commits++; commits > 1 {
				log.behind = n
			}
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func stored(b []byte) [2]uint32 {
	return [2]uint32{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}
}

func checksum(order binary.ByteOrder, b []byte, s [2]uint32) [2]uint32 {
	for ; len(b) >= 8; b = b[8:] {
		s[0] += order.Uint32(b) + s[1]
		s[1] += order.Uint32(b[4:]) + s[0]
	}
	return s
}

type index struct {
	salt             [8]byte
	committed, moved uint32 // moved: the database has them
}

// readIndex reads what is left of the shared memory. It is zero where that is not
// there, or not whole.
func readIndex(path string) (x index, err error) {
	f, err := os.Open(path) //nolint:gosec // G304: the operator names it
	if errors.Is(err, fs.ErrNotExist) {
		return x, nil
	}
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var b [2*indexHeader + 4]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return x, ended(err)
	}
	order, head := binary.NativeEndian, b[:indexHeader]
	sum := checksum(order, head[:40], [2]uint32{})
	if bytes.Equal(head, b[indexHeader:2*indexHeader]) && order.Uint32(head[40:]) == sum[0] && order.Uint32(head[44:]) == sum[1] {
		copy(x.salt[:], head[32:])
		x.committed, x.moved = order.Uint32(head[16:]), order.Uint32(b[2*indexHeader:])
	}
	return x, nil
}
