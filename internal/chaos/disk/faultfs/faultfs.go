//go:build linux

// Package faultfs is a filesystem (FUSE, in memory) that knows of each byte
// whether a disk would still have it after a power loss, and that fails when told.
//
// What is durable. It is more forgetful than ext4 with data=ordered and delayed
// allocation, and so than what any program may count on by POSIX:
//
//   - a file's bytes and its size as of its last completed fsync or fdatasync;
//   - a directory's entries (creation, rename, removal) as of the last completed
//     fsync of that directory. An fsync of the file does not keep its name;
//   - a mode as of the file's last fsync.
//
// PowerLoss forgets the rest, or keeps a random part of it, since a real disk
// may have written any of it: of each file's pages any version since the last
// fsync, whole or up to a sector (512 bytes); of each directory's changes the
// first few, as a journal has them. A truncation is of the journal, too: what was
// written to a file after one that is forgotten is forgotten with it. What waits for
// longer than maxUnsynced in one file is written, as the kernel would do it.
//
// What it does not do: links, devices, extended attributes, owners and times;
// a rename to another directory is EXDEV. Locks are the kernel's own. No write
// that was synced is ever lost or damaged, as by a disk whose cache lies.
//
// Memory of a process that serves a filesystem must not be mapped from it: a page
// fault would wait for the very process that it stops. So whoever reads the
// database while this process serves it does so in another one, or from Export.
package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pageSize   = 4096
	sectorSize = 512
	// maxUnsynced bytes wait in a file for its fsync; older ones are written.
	maxUnsynced = 32 << 20
)

// Failure is an error that an operation ends with.
type Failure struct {
	Errno syscall.Errno
	Times int // how often yet; Always: until it is taken back
}

// Always is for Failure.Times.
const Always = -1

// Faults are what is wrong with the disk. The zero value is a good one.
type Faults struct {
	// Fsync that fails drops what it was to write, for good, and marks it clean, as
	// Linux does: reads still show it, the next fsync succeeds, a power loss tells.
	Fsync, Read, Write Failure
	// FsyncAfter is how many fsyncs succeed before.
	FsyncAfter int
	// FsyncDelay is how long each fsync takes.
	FsyncDelay time.Duration
	// Quota is how many bytes the files may have in all; growth past it is ENOSPC.
	// 0: no bound.
	Quota int64
	// ReadOnly refuses every change, EROFS.
	ReadOnly bool
	// Only the files whose name ends so are touched by Fsync, Read, Write and
	// FsyncDelay; "": all.
	Only string
}

// FS is a disk. It can be mounted once at a time.
type FS struct {
	mu      sync.Mutex
	root    *node
	lastIno uint64
	faults  Faults
	seq     uint64 // of changes, over all files
	syncs   int64
	mounted *mount
}

// node is a file or a directory.
type node struct {
	ino         uint64
	name        string
	mode        uint32 // type and permissions
	durableMode uint32

	data    []byte // as programs see it
	durable []byte // as it is after a power loss
	changes []change
	waiting int // bytes in changes

	entries        map[string]*node
	durableEntries map[string]*node
	entryChanges   []entryChange
}

// change is one page of a file, as a write left it, or a truncation.
type change struct {
	seq      uint64
	off      int64
	page     []byte // at most pageSize
	truncate bool   // to off
}

// entryChange is one step of a directory: old goes, n comes as new.
type entryChange struct {
	old, new string
	n        *node
}

// New returns an empty disk.
func New() *FS {
	return &FS{root: newNode(1, "", syscall.S_IFDIR|0o755), lastIno: 1}
}

func newNode(ino uint64, name string, mode uint32) *node {
	n := &node{ino: ino, name: name, mode: mode, durableMode: mode}
	if n.isDir() {
		n.entries, n.durableEntries = map[string]*node{}, map[string]*node{}
	}
	return n
}

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// Inject replaces what is wrong with the disk, at once.
func (f *FS) Inject(faults Faults) {
	f.mu.Lock()
	f.faults = faults
	m := f.mounted
	f.mu.Unlock()
	if m != nil && faults.Read.Times != 0 {
		m.dropCache() // else the kernel would answer reads itself
	}
}

// Injected returns what is still wrong: Times count down.
func (f *FS) Injected() Faults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faults
}

// Syncs counts the fsyncs that succeeded, of files and directories.
func (f *FS) Syncs() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.syncs
}

// Used is how many bytes the files have, in whole pages, as Quota counts.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.root.used()
}

func (n *node) used() int64 {
	sum := (int64(len(n.data)) + pageSize - 1) / pageSize * pageSize
	for _, child := range n.entries {
		sum += child.used()
	}
	return sum
}

// PowerLoss cuts the power: whatever is asked of what is mounted fails with EIO
// from now on, and what was not synced is forgotten; with a seed other than 0 a
// random part of it is kept. Unmount, and Mount again.
func (f *FS) PowerLoss(seed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mounted != nil {
		f.mounted.dead = true
	}
	l := loss{rng: rand.New(rand.NewPCG(seed, seed))} //nolint:gosec // G404: it must be repeatable
	if seed != 0 {
		l.keep = []float64{0, 0.1, 0.5, 0.9, 1}[l.rng.IntN(5)]
	}
	f.root = l.after(f.root)
	f.faults = Faults{}
}

// loss decides what a power loss keeps.
type loss struct {
	rng  *rand.Rand
	keep float64 // the probability of each page's version
}

// after returns what is left of a node.
func (l loss) after(n *node) *node {
	left := newNode(n.ino, n.name, n.durableMode)
	if !n.isDir() {
		l.pages(n)
		left.data, left.durable = n.durable, slices.Clone(n.durable)
		return left
	}
	if l.keep > 0 {
		for _, c := range n.entryChanges[:l.rng.IntN(len(n.entryChanges)+1)] {
			c.apply(n.durableEntries)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.durableEntries)) { // in order: a seed is to give the same again
		child := l.after(n.durableEntries[name])
		child.name = name
		left.entries[name], left.durableEntries[name] = child, child
	}
	return left
}

// pages writes some of what waits.
func (l loss) pages(n *node) {
	for _, c := range n.changes {
		kept := l.rng.Float64() < l.keep
		switch {
		case c.truncate && !kept:
			return
		case kept && !c.truncate && l.rng.IntN(8) == 0:
			c.page = c.page[:l.rng.IntN(len(c.page)/sectorSize+1)*sectorSize]
			c.page = c.page[:max(0, min(int64(len(c.page)), int64(len(n.durable))-c.off))] // a size comes after its bytes
			n.write(c)
		case kept:
			n.write(c)
		}
	}
}

// write makes a change durable.
func (n *node) write(c change) {
	if c.truncate {
		n.durable = resize(n.durable, c.off)
		return
	}
	if end := c.off + int64(len(c.page)); end > int64(len(n.durable)) {
		n.durable = resize(n.durable, end)
	}
	copy(n.durable[c.off:], c.page)
}

// resize cuts or grows, by zeros, as a hole has them.
func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	old := len(b)
	b = slices.Grow(b, int(size)-old)[:size]
	clear(b[old:])
	return b
}

func (c entryChange) apply(entries map[string]*node) {
	if c.old != "" {
		delete(entries, c.old)
	}
	if c.new != "" {
		entries[c.new] = c.n
	}
}

// fails counts a failure down.
func (f *FS) fails(n *node, failure *Failure) syscall.Errno {
	if failure.Times == 0 || !strings.HasSuffix(n.name, f.faults.Only) {
		return 0
	}
	if failure.Times > 0 {
		failure.Times--
	}
	return failure.Errno
}

// sync is an fsync. What is written while it lasts is not of it.
func (m *mount) sync(n *node) syscall.Errno {
	f := m.fs
	f.mu.Lock()
	seq, delay, entries := f.seq, time.Duration(0), len(n.entryChanges)
	if strings.HasSuffix(n.name, f.faults.Only) {
		delay = f.faults.FsyncDelay
	}
	f.mu.Unlock()
	if delay > 0 {
		<-time.After(delay)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.dead {
		return syscall.EIO
	}
	errno := syscall.Errno(0)
	if f.faults.FsyncAfter > 0 && strings.HasSuffix(n.name, f.faults.Only) {
		f.faults.FsyncAfter--
	} else {
		errno = f.fails(n, &f.faults.Fsync)
	}
	for len(n.changes) > 0 && n.changes[0].seq <= seq {
		n.settle(errno == 0)
	}
	if errno != 0 {
		return errno
	}
	for _, c := range n.entryChanges[:min(entries, len(n.entryChanges))] { // another fsync may have been faster
		c.apply(n.durableEntries)
	}
	n.entryChanges = slices.Clone(n.entryChanges[min(entries, len(n.entryChanges)):])
	n.durableMode = n.mode
	f.syncs++
	return 0
}

// settle is done with the oldest change.
func (n *node) settle(written bool) {
	if written {
		n.write(n.changes[0])
	}
	n.waiting -= len(n.changes[0].page)
	n.changes[0].page = nil
	n.changes = n.changes[1:]
}

// refuses tells why nothing can be changed.
func (m *mount) refuses() syscall.Errno {
	switch {
	case m.dead:
		return syscall.EIO
	case m.fs.faults.ReadOnly:
		return syscall.EROFS
	}
	return 0
}

// grows tells whether there is room for a file of that size.
func (f *FS) grows(n *node, size int64) syscall.Errno {
	pages := func(size int64) int64 { return (size + pageSize - 1) / pageSize * pageSize }
	if f.faults.Quota > 0 && size > int64(len(n.data)) &&
		f.root.used()-pages(int64(len(n.data)))+pages(size) > f.faults.Quota {
		return syscall.ENOSPC
	}
	return 0
}

func (m *mount) write(n *node, data []byte, off int64) syscall.Errno {
	f := m.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	end := off + int64(len(data))
	for _, errno := range []syscall.Errno{m.refuses(), f.fails(n, &f.faults.Write), f.grows(n, end)} {
		if errno != 0 {
			return errno
		}
	}
	if end > int64(len(n.data)) {
		n.data = resize(n.data, end)
	}
	copy(n.data[off:], data)
	f.changed(n, off, end)
	return 0
}

// changed notes the pages of a file that a write touched, as they are now.
func (f *FS) changed(n *node, from, to int64) {
	from -= from % pageSize
	to = min((to+pageSize-1)/pageSize*pageSize, int64(len(n.data)))
	images := slices.Clone(n.data[from:to])
	for off := from; off < to; off += pageSize {
		page := images[off-from : min(off-from+pageSize, to-from)]
		f.note(n, change{off: off, page: page})
	}
}

func (f *FS) note(n *node, c change) {
	f.seq++
	c.seq = f.seq
	n.changes = append(n.changes, c)
	for n.waiting += len(c.page); n.waiting > maxUnsynced; {
		n.settle(true)
	}
}

func (m *mount) truncate(n *node, size int64) syscall.Errno {
	f := m.fs
	for _, errno := range []syscall.Errno{m.refuses(), f.fails(n, &f.faults.Write), f.grows(n, size)} {
		if errno != 0 {
			return errno
		}
	}
	n.data = resize(n.data, size)
	f.note(n, change{off: size, truncate: true})
	return 0
}

// enter makes one step of a directory.
func (dir *node) enter(c entryChange) {
	c.apply(dir.entries)
	dir.entryChanges = append(dir.entryChanges, c)
	if c.n != nil {
		c.n.name = c.new
	}
}

// Export copies what is on the disk into a directory, which it makes.
func (f *FS) Export(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.root.export(dir)
}

func (n *node) export(path string) error {
	mode := fs.FileMode(n.mode & 0o777)
	if !n.isDir() {
		return os.WriteFile(path, n.data, mode)
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	for name, child := range n.entries {
		if err := child.export(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// Unmount takes the filesystem away. Programs that use it must have ended: else
// it is an error after a second, and it is gone all the same.
func (f *FS) Unmount() error {
	f.mu.Lock()
	m := f.mounted
	f.mounted = nil
	f.mu.Unlock()
	if m == nil {
		return nil
	}
	err := m.unmount()
	f.mu.Lock()
	defer f.mu.Unlock()
	m.dead = true
	return err
}

// Mount shows the disk in a directory. What it holds then is durable. An error
// that Refused knows is the kernel's.
func (f *FS) Mount(dir string) error {
	f.mu.Lock()
	m, other := &mount{fs: f, dir: dir, root: f.root}, f.mounted
	f.mu.Unlock()
	if other != nil {
		return fmt.Errorf("mount %s: it is mounted on %s", dir, other.dir)
	}
	if err := m.start(); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mounted = m
	return nil
}

// Refused tells whether an error means that no filesystem can be mounted here.
func Refused(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENODEV, syscall.ENOENT, syscall.ENXIO, syscall.ENOSYS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
