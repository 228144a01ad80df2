package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orchestrate/internal/chaos/disk/faultfs"
)

// disk is what a database is on.
type disk interface {
	mount(ctx context.Context) error
	// cut takes the power away from the disk and from a process: from then on
	// nothing reaches the disk, and no word of it is heard.
	cut(seed uint64, pid int) error
	unmount() error
}

// newDisk makes an empty one, to be mounted at dir; ext4 has its image beside it.
func newDisk(ctx context.Context, way, dir string) (disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if way == "fuse" {
		return &forgetful{dir: dir, fs: faultfs.New()}, nil
	}
	d := &ext4{dir: dir, image: dir + ".img"}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, imageSize)); err != nil {
		return nil, err
	}
	return d, command(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", d.image)
}

// imageSize is that of a sparse file; a run of cycles fills a part of it.
const imageSize = 512 << 20

type forgetful struct {
	dir string
	fs  *faultfs.FS
}

func (d *forgetful) mount(context.Context) error { return d.fs.Mount(d.dir) }
func (d *forgetful) unmount() error              { return d.fs.Unmount() }

func (d *forgetful) cut(seed uint64, _ int) error {
	d.fs.PowerLoss(seed) // every fsync that has not ended fails
	return nil
}

type ext4 struct{ dir, image string }

// mount has the loop device go with the filesystem.
func (d *ext4) mount(ctx context.Context) error {
	return command(ctx, "mount", "-t", "ext4", "-o", "loop", d.image, d.dir)
}

// The ioctl of Linux that shuts an ext4 down, and its argument: without a flush of
// the log, which is EXT4_GOING_FLAGS_NOLOGFLUSH.
const (
	ext4IOCShutdown = 0x8004587d
	noLogFlush      = 2
)

// cut freezes the process first, its threads in an fsync within that: the ioctl
// lets an fsync that it interrupts return 0, though the size of the file was not
// written (ext4 drops the error of converting unwritten extents once it is shut
// down), and a machine without power would not have told anybody.
func (d *ext4) cut(_ uint64, pid int) error {
	if err := freeze(pid); err != nil {
		return err
	}
	return d.shutDown()
}

func (d *ext4) shutDown() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4IOCShutdown, noLogFlush); err != nil {
		err = fmt.Errorf("EXT4_IOC_SHUTDOWN: %w", err)
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// freeze returns when no thread of a process runs: each is stopped, or in a system
// call that a signal does not interrupt.
func freeze(pid int) error {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	for range 10_000 {
		if frozen(pid) {
			return nil
		}
		<-time.After(50 * time.Microsecond)
	}
	return fmt.Errorf("process %d did not stop", pid)
}

func frozen(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range tasks {
		stat, err := os.ReadFile(path) //nolint:gosec // of the kernel
		if err != nil {
			continue // it has ended
		}
		// "PID (NAME) STATE …"; the name may hold anything.
		rest := bytes.TrimSpace(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(rest) == 0 || !bytes.ContainsRune([]byte("TDZX"), rune(rest[0])) {
			return false
		}
	}
	return err == nil && len(tasks) > 0
}

// unmount waits a while for processes that were killed to be gone.
func (d *ext4) unmount() error {
	var err error
	for range 100 {
		if err = unix.Unmount(d.dir, 0); !errors.Is(err, syscall.EBUSY) {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	if err != nil {
		err = fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	return err
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput() //nolint:gosec // our own
	if err != nil {
		return fmt.Errorf("%s: %w %s", name, err, strings.Join(strings.Fields(string(out)), " "))
	}
	return nil
}
