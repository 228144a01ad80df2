//go:build linux

package faultfs

import (
	"context"
	"io"
	"log"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// mount is one time that the disk is mounted.
type mount struct {
	fs     *FS
	dir    string
	root   *node
	server *fuse.Server
	top    *inode
	dead   bool // guarded by fs.mu
}

// inode is a node as the kernel knows it through one mount. Its methods are what
// the kernel asks for; they take fs.mu.
type inode struct {
	gofs.Inode
	m *mount
	n *node
}

var (
	_ gofs.NodeGetattrer = (*inode)(nil)
	_ gofs.NodeSetattrer = (*inode)(nil)
	_ gofs.NodeLookuper  = (*inode)(nil)
	_ gofs.NodeCreater   = (*inode)(nil)
	_ gofs.NodeOpener    = (*inode)(nil)
	_ gofs.NodeReader    = (*inode)(nil)
	_ gofs.NodeWriter    = (*inode)(nil)
	_ gofs.NodeFsyncer   = (*inode)(nil)
	_ gofs.NodeMkdirer   = (*inode)(nil)
	_ gofs.NodeUnlinker  = (*inode)(nil)
	_ gofs.NodeRmdirer   = (*inode)(nil)
	_ gofs.NodeRenamer   = (*inode)(nil)
	_ gofs.NodeReaddirer = (*inode)(nil)
	_ gofs.NodeStatfser  = (*inode)(nil)
)

func (m *mount) start() error {
	m.top = &inode{m: m, n: m.root}
	second := time.Second
	server, err := gofs.Mount(m.dir, m.top, &gofs.Options{
		EntryTimeout: &second, AttrTimeout: &second,
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, DisableXAttrs: true, DisableReadDirPlus: true,
			FsName: "faultfs", Name: "faultfs", AllowOther: true,
			Options: []string{"default_permissions"},
			Logger:  log.New(io.Discard, "", 0), // of requests that an end cuts off
		},
	})
	m.server = server
	return err
}

// unmount waits a while for a process that has just ended to let go of its files.
func (m *mount) unmount() error {
	var err error
	for range 50 {
		if err = m.server.Unmount(); err == nil {
			return nil
		}
		<-time.After(20 * time.Millisecond)
	}
	_ = syscall.Unmount(m.dir, syscall.MNT_DETACH|syscall.MNT_FORCE)
	return err
}

// dropCache has the kernel ask again for all that it knows.
func (m *mount) dropCache() {
	var drop func(*gofs.Inode)
	drop = func(in *gofs.Inode) {
		_ = in.NotifyContent(0, 0) // ENOENT: it knows nothing
		for _, child := range in.Children() {
			drop(child)
		}
	}
	drop(m.top.EmbeddedInode())
}

func (in *inode) lock() func() {
	in.m.fs.mu.Lock()
	return in.m.fs.mu.Unlock
}

// attr tells no times: the kernel drops its cache when they move.
func (n *node) attr(out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink, out.Blksize = n.ino, n.mode, 1, pageSize
	out.Size = uint64(len(n.data))
	out.Blocks = (out.Size + sectorSize - 1) / sectorSize
}

func (in *inode) Getattr(_ context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	defer in.lock()()
	if in.m.dead {
		return syscall.EIO
	}
	in.n.attr(&out.Attr)
	return 0
}

func (in *inode) Setattr(_ context.Context, _ gofs.FileHandle, set *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	defer in.lock()()
	if errno := in.m.refuses(); errno != 0 {
		return errno
	}
	if size, ok := set.GetSize(); ok {
		if errno := in.m.truncate(in.n, int64(size)); errno != 0 { //nolint:gosec // G115: the kernel's bound is that of int64
			return errno
		}
	}
	if mode, ok := set.GetMode(); ok {
		in.n.mode = in.n.mode&syscall.S_IFMT | mode&0o7777
	}
	in.n.attr(&out.Attr)
	return 0
}

// show makes a node known to the kernel.
func (in *inode) show(ctx context.Context, n *node, out *fuse.EntryOut) *gofs.Inode {
	n.attr(&out.Attr)
	return in.NewInode(ctx, &inode{m: in.m, n: n}, gofs.StableAttr{Mode: n.mode & syscall.S_IFMT, Ino: n.ino})
}

func (in *inode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	defer in.lock()()
	if in.m.dead {
		return nil, syscall.EIO
	}
	n := in.n.entries[name]
	if n == nil {
		return nil, syscall.ENOENT
	}
	return in.show(ctx, n, out), 0
}

// add makes a node of a name that is free.
func (in *inode) add(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	defer in.lock()()
	if errno := in.m.refuses(); errno != 0 {
		return nil, errno
	}
	if in.n.entries[name] != nil {
		return nil, syscall.EEXIST
	}
	in.m.fs.lastIno++
	n := newNode(in.m.fs.lastIno, name, mode)
	in.n.enter(entryChange{new: name, n: n})
	return in.show(ctx, n, out), 0
}

func (in *inode) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*gofs.Inode, gofs.FileHandle, uint32, syscall.Errno) {
	node, errno := in.add(ctx, name, syscall.S_IFREG|mode&0o7777, out)
	return node, nil, fuse.FOPEN_KEEP_CACHE, errno
}

func (in *inode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return in.add(ctx, name, syscall.S_IFDIR|mode&0o7777, out)
}

// Open keeps the kernel's cache: nothing changes a file behind its back, and what
// a program has mapped stays.
func (in *inode) Open(_ context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	defer in.lock()()
	if in.m.dead {
		return nil, 0, syscall.EIO
	}
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY && in.m.fs.faults.ReadOnly {
		return nil, 0, syscall.EROFS
	}
	if flags&syscall.O_TRUNC != 0 {
		if errno := in.m.truncate(in.n, 0); errno != 0 {
			return nil, 0, errno
		}
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (in *inode) Read(_ context.Context, _ gofs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	defer in.lock()()
	f := in.m.fs
	if in.m.dead {
		return nil, syscall.EIO
	}
	if errno := f.fails(in.n, &f.faults.Read); errno != 0 {
		return nil, errno
	}
	if off > int64(len(in.n.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, in.n.data[off:])]), 0
}

func (in *inode) Write(_ context.Context, _ gofs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := in.m.write(in.n, data, off); errno != 0 {
		return 0, errno
	}
	return uint32(len(data)), 0 //nolint:gosec // G115: at most MaxWrite
}

func (in *inode) Fsync(context.Context, gofs.FileHandle, uint32) syscall.Errno {
	return in.m.sync(in.n)
}

// remove takes a name away; who has the file open keeps it.
func (in *inode) remove(name string, dir bool) syscall.Errno {
	defer in.lock()()
	if errno := in.m.refuses(); errno != 0 {
		return errno
	}
	n := in.n.entries[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case dir != n.isDir():
		return map[bool]syscall.Errno{true: syscall.ENOTDIR, false: syscall.EISDIR}[dir]
	case len(n.entries) > 0:
		return syscall.ENOTEMPTY
	}
	in.n.enter(entryChange{old: name})
	return 0
}

func (in *inode) Unlink(_ context.Context, name string) syscall.Errno { return in.remove(name, false) }

func (in *inode) Rmdir(_ context.Context, name string) syscall.Errno { return in.remove(name, true) }

func (in *inode) Rename(_ context.Context, name string, to gofs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	defer in.lock()()
	if errno := in.m.refuses(); errno != 0 {
		return errno
	}
	target, ok := to.(*inode)
	n := in.n.entries[name]
	switch {
	case flags != 0:
		return syscall.EINVAL
	case !ok || target.n != in.n:
		return syscall.EXDEV
	case n == nil:
		return syscall.ENOENT
	}
	if over := in.n.entries[newName]; over != nil && len(over.entries) > 0 {
		return syscall.ENOTEMPTY
	}
	in.n.enter(entryChange{old: name, new: newName, n: n})
	return 0
}

func (in *inode) Readdir(context.Context) (gofs.DirStream, syscall.Errno) {
	defer in.lock()()
	if in.m.dead {
		return nil, syscall.EIO
	}
	var list []fuse.DirEntry
	for name, n := range in.n.entries {
		list = append(list, fuse.DirEntry{Name: name, Mode: n.mode, Ino: n.ino})
	}
	return gofs.NewListDirStream(list), 0
}

// Statfs tells of a disk of Quota bytes, or of a large one.
func (in *inode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	defer in.lock()()
	f := in.m.fs
	size := f.faults.Quota
	if size == 0 {
		size = 1 << 40
	}
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks = uint64(size / pageSize)
	out.Bfree = uint64(max(0, size-f.root.used()) / pageSize)
	out.Bavail, out.Files, out.Ffree = out.Bfree, 1<<20, 1<<20-64 // as many as anybody asks for
	return 0
}
