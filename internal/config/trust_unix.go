//go:build unix

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// openFlags are those that files are read with: to open a pipe waits for nobody.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// checkTrusted refuses a configuration that somebody else could have written,
// since it names commands to run. The open file is looked at, not its name, so
// that what was checked is what is read.
func checkTrusted(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return errors.New("is a directory")
	case !mode.IsRegular() && mode&fs.ModeNamedPipe == 0:
		return errors.New("is neither a file nor a pipe")
	}
	if err := distrust(f.Name(), info.Mode(), owner(info), os.Geteuid()); err != nil {
		return err
	}
	dirs := []string{filepath.Dir(f.Name())}
	if target, err := filepath.EvalSymlinks(f.Name()); err == nil { // fails for what has no path, as a pipe
		dirs = append(dirs, filepath.Dir(target))
	}
	for _, dir := range slices.Compact(dirs) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		uid, me := owner(info), os.Geteuid()
		switch {
		case uid != me && uid != 0:
			return fmt.Errorf("it names commands to run, but user %d, who owns %s, can replace it: chown %d %s", uid, dir, me, ShellWord(dir))
		case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
			return fmt.Errorf("it names commands to run, but others can replace it: chmod go-w %s", ShellWord(dir))
		}
	}
	return nil
}

func distrust(path string, mode fs.FileMode, uid, me int) error {
	switch {
	case uid != me && uid != 0:
		return fmt.Errorf("it names commands to run, but belongs to user %d, who is neither root nor the one who runs this: chown %d %s",
			uid, me, ShellWord(path))
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("it names commands to run, but others can write it (mode %04o): chmod go-w %s", mode.Perm(), ShellWord(path))
	}
	return nil
}

// checkPrivate refuses a secret of ours that others can read.
func checkPrivate(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if uid, me := owner(info), os.Geteuid(); uid != me && uid != 0 {
		return fmt.Errorf("it belongs to user %d, who can read it: chown %d %s", uid, me, ShellWord(f.Name()))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others can read it (mode %04o): chmod 600 %s", info.Mode().Perm(), ShellWord(f.Name()))
	}
	return nil
}

// owner is the user that a file belongs to.
func owner(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}

// syncDir makes a new name in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // G304: of the secret that is kept
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
