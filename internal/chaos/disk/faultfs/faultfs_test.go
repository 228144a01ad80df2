//go:build linux

package faultfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// disk is a filesystem as the kernel would use it, without a kernel.
type disk struct {
	*testing.T
	f *FS
	m *mount
}

func newDisk(t *testing.T) *disk {
	d := &disk{T: t, f: New()}
	d.remount()
	return d
}

func (d *disk) remount() {
	d.m = &mount{fs: d.f, root: d.f.root}
	d.f.mounted = d.m
}

func (d *disk) powerLoss(seed uint64) {
	d.f.mounted.root = d.f.root
	d.f.PowerLoss(seed)
	d.remount()
}

func (d *disk) dir() *inode { return &inode{m: d.m, n: d.m.root} }

func (d *disk) create(name string) *node {
	d.Helper()
	d.f.lastIno++
	n := newNode(d.f.lastIno, name, syscall.S_IFREG|0o600)
	d.m.root.enter(entryChange{new: name, n: n})
	return n
}

func (d *disk) want(what string, got, want syscall.Errno) {
	d.Helper()
	if got != want {
		d.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func (d *disk) write(n *node, off int64, s string) {
	d.Helper()
	d.want("write", d.m.write(n, []byte(s), off), 0)
}

func (d *disk) sync(ns ...*node) {
	d.Helper()
	for _, n := range ns {
		d.want("fsync", d.m.sync(n), 0)
	}
}

// shows compares what is on the disk.
func (d *disk) shows(want map[string]string) {
	d.Helper()
	got := map[string]string{}
	for name, n := range d.m.root.entries {
		got[name] = string(n.data)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		d.Fatalf("the disk has %.200q, want %.200q", got, want)
	}
}

func TestPowerLossForgets(t *testing.T) {
	tests := []struct {
		name string
		do   func(d *disk)
		want map[string]string
	}{
		{"a file and its name, both synced", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.sync(n, d.m.root)
		}, map[string]string{"a": "one"}},
		{"a name that was not synced", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.sync(n)
		}, map[string]string{}},
		{"bytes that were not synced", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.sync(d.m.root)
		}, map[string]string{"a": ""}},
		{"what came after the last fsync", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.sync(n, d.m.root)
			d.write(n, 1, "wo two")
		}, map[string]string{"a": "one"}},
		{"a truncation", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.sync(n, d.m.root)
			d.want("truncate", d.m.truncate(n, 1), 0)
		}, map[string]string{"a": "one"}},
		{"nothing of a synced truncation", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.want("truncate", d.m.truncate(n, 1), 0)
			d.want("truncate", d.m.truncate(n, 2), 0)
			d.sync(n, d.m.root)
		}, map[string]string{"a": "o\x00"}},
		{"a removal", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.sync(n, d.m.root)
			d.want("unlink", d.dir().remove("a", false), 0)
		}, map[string]string{"a": "one"}},
		{"nothing of a synced removal", func(d *disk) {
			d.sync(d.create("a"), d.m.root)
			d.want("unlink", d.dir().remove("a", false), 0)
			d.sync(d.m.root)
		}, map[string]string{}},
		{"what a failed fsync was to write, though the next one succeeds", func(d *disk) {
			n := d.create("a")
			d.write(n, 0, "one")
			d.sync(n, d.m.root)
			d.write(n, 0, "two")
			d.f.Inject(Faults{Fsync: Failure{syscall.EIO, 1}})
			d.want("fsync", d.m.sync(n), syscall.EIO)
			d.shows(map[string]string{"a": "two"})
			d.sync(n)
		}, map[string]string{"a": "one"}},
		{"a hole's bytes are zeros", func(d *disk) {
			n := d.create("a")
			d.write(n, 3, "x")
			d.sync(n, d.m.root)
		}, map[string]string{"a": "\x00\x00\x00x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDisk(t)
			tt.do(d)
			d.powerLoss(0)
			d.shows(tt.want)
		})
	}
}

// Of two pages, each is old, new, or new up to a sector, and over many losses
// all of it is seen; the same seed gives the same.
func TestPowerLossKeepsAPart(t *testing.T) {
	lose := func(seed uint64) []byte {
		d := newDisk(t)
		n := d.create("a")
		d.write(n, 0, string(bytes.Repeat([]byte{'o'}, 2*pageSize)))
		d.sync(n, d.m.root)
		d.write(n, 0, string(bytes.Repeat([]byte{'n'}, 2*pageSize)))
		d.powerLoss(seed)
		return d.m.root.entries["a"].data
	}
	seen := map[string]bool{}
	for seed := range uint64(150) {
		got := lose(seed + 1)
		if again := lose(seed + 1); !bytes.Equal(got, again) {
			t.Fatalf("seed %d keeps something else the second time", seed+1)
		}
		var pages [2]string
		for i := range pages {
			page := got[i*pageSize : (i+1)*pageSize]
			written := bytes.Count(page, []byte{'n'})
			if written%sectorSize != 0 || !bytes.Equal(page[:written], bytes.Repeat([]byte{'n'}, written)) {
				t.Fatalf("seed %d: page %d is not new up to a sector", seed+1, i)
			}
			pages[i] = map[int]string{0: "old", pageSize: "new"}[written]
			if pages[i] == "" {
				pages[i] = "torn"
			}
		}
		seen[pages[0]+" "+pages[1]] = true
	}
	for _, want := range []string{"old old", "old new", "new old", "new new", "torn new", "new torn"} {
		if !seen[want] {
			t.Errorf("never seen: %s", want)
		}
	}
}

func TestPowerLossKeepsNoWriteAfterALostTruncation(t *testing.T) {
	for seed := range uint64(200) {
		d := newDisk(t)
		n := d.create("a")
		d.write(n, 0, "old")
		d.sync(n, d.m.root)
		d.want("truncate", d.m.truncate(n, 0), 0)
		d.write(n, 0, "ne")
		d.powerLoss(seed + 1)
		switch got := string(d.m.root.entries["a"].data); got {
		case "old", "", "ne":
		default:
			t.Fatalf("seed %d: the file is %q", seed+1, got)
		}
	}
}

func TestFaults(t *testing.T) {
	d := newDisk(t)
	n := d.create("o.db-wal")
	other := d.create("o.db")
	d.write(n, 0, "one")

	d.f.Inject(Faults{Write: Failure{syscall.EIO, 1}, Fsync: Failure{syscall.EIO, Always}, Only: "-wal"})
	d.want("write to another file", d.m.write(other, []byte("x"), 0), 0)
	d.want("first write", d.m.write(n, []byte("x"), 0), syscall.EIO)
	d.want("second write", d.m.write(n, []byte("x"), 0), 0)
	for range 3 {
		d.want("fsync", d.m.sync(n), syscall.EIO)
	}
	d.want("fsync of another file", d.m.sync(other), 0)

	d.f.Inject(Faults{Quota: 3 * pageSize})
	d.want("write within the quota", d.m.write(n, make([]byte, 2*pageSize), 0), 0)
	d.want("write past it", d.m.write(other, make([]byte, pageSize), pageSize), syscall.ENOSPC)
	d.want("overwrite", d.m.write(n, []byte("x"), 0), 0)
	d.f.Inject(Faults{Quota: 4 * pageSize})
	d.want("write once there is room", d.m.write(other, make([]byte, pageSize), pageSize), 0)
	if got, want := d.f.Used(), int64(4*pageSize); got != want {
		t.Errorf("used: got %d, want %d", got, want)
	}

	d.f.Inject(Faults{ReadOnly: true})
	d.want("write", d.m.write(n, []byte("x"), 0), syscall.EROFS)
	d.want("unlink", d.dir().remove("o.db", false), syscall.EROFS)
	_, _, errno := (&inode{m: d.m, n: n}).Open(t.Context(), syscall.O_RDWR)
	d.want("open for writing", errno, syscall.EROFS)

	d.f.mounted = nil // no kernel that has a cache
	d.f.Inject(Faults{Read: Failure{syscall.EIO, 1}})
	_, errno = (&inode{m: d.m, n: n}).Read(t.Context(), nil, make([]byte, 8), 0)
	d.want("read", errno, syscall.EIO)
	if got := d.f.Injected(); got != (Faults{Read: Failure{syscall.EIO, 0}}) {
		t.Errorf("faults left: %+v", got)
	}

	d.m.dead = true
	d.want("write without power", d.m.write(n, []byte("x"), 0), syscall.EIO)
	d.want("fsync without power", d.m.sync(n), syscall.EIO)
}

// What is written while an fsync lasts is not of it, and a power loss that comes
// meanwhile is before it.
func TestSlowFsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(t)
		n := d.create("a")
		d.sync(d.m.root)
		d.write(n, 0, "one")
		d.f.Inject(Faults{FsyncDelay: 500 * time.Millisecond})
		start, done := time.Now(), make(chan syscall.Errno)
		m := d.m
		go func() { done <- m.sync(n) }()
		synctest.Wait()
		d.write(n, 0, "two")
		d.want("fsync", <-done, 0)
		if took := time.Since(start); took != 500*time.Millisecond {
			t.Errorf("fsync took %s, want 500ms", took)
		}
		go func() { done <- m.sync(n) }()
		synctest.Wait()
		d.powerLoss(0)
		d.want("fsync", <-done, syscall.EIO)
		d.shows(map[string]string{"a": "one"})
	})
}

func TestUnsyncedIsBounded(t *testing.T) {
	d := newDisk(t)
	n := d.create("a")
	d.sync(d.m.root)
	for range 3 {
		d.write(n, 0, string(make([]byte, maxUnsynced/2)))
	}
	if n.waiting > maxUnsynced {
		t.Errorf("%d bytes wait, want at most %d", n.waiting, maxUnsynced)
	}
	d.powerLoss(0)
	if got := len(d.m.root.entries["a"].data); got != maxUnsynced/2 {
		t.Errorf("the file has %d bytes, want %d: what waited for long is written", got, maxUnsynced/2)
	}
}

func TestExport(t *testing.T) {
	d := newDisk(t)
	d.write(d.create("a"), 0, "one")
	dir := filepath.Join(t.TempDir(), "copy")
	if err := d.f.Export(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != "one" {
		t.Errorf("got %q, %v", got, err)
	}
}
