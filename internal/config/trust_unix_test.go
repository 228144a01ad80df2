//go:build unix

package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDistrust(t *testing.T) {
	const me = 1000
	for name, c := range map[string]struct {
		mode fs.FileMode
		uid  int
		want string
	}{
		"mine":         {0o600, me, ""},
		"root's":       {0o644, 0, ""},
		"read by all":  {0o444, me, ""},
		"group writes": {0o620, me, "it names commands to run, but others can write it (mode 0620): chmod go-w '/a b'"},
		"all write":    {0o602, 0, "it names commands to run, but others can write it (mode 0602): chmod go-w '/a b'"},
		"another's":    {0o600, 1001, "it names commands to run, but belongs to user 1001, who is neither root nor the one who runs this: chown 1000 '/a b'"},
	} {
		got := ""
		if err := distrust("/a b", c.mode, c.uid, me); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestFileThatOthersCanWrite(t *testing.T) {
	clean(t)
	path := file(t, "listen: a:1")
	chmod(t, path, 0o666)
	want := "configuration file FILE: it names commands to run, but others can write it (mode 0666): chmod go-w FILE"
	if got := refusal(t, Options{File: path}); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	chmod(t, path, 0o644)
	mustLoad(t, Options{File: path})
}

func TestDirectoryThatOthersCanWrite(t *testing.T) {
	clean(t)
	path := file(t, "listen: a:1")
	dir := filepath.Dir(path)
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, Options{File: link})
	chmod(t, dir, 0o707)
	want := "configuration file FILE: it names commands to run, but others can replace it: chmod go-w " + dir
	if got := refusal(t, Options{File: link}); got != want {
		t.Errorf("through a link:\n got %s\nwant %s", got, want)
	}
	if got := refusal(t, Options{File: path}); !strings.HasPrefix(got, "configuration file FILE: it names commands to run, but others can replace it: chmod go-w ") {
		t.Errorf("got %s", got)
	}
	chmod(t, dir, 0o770)
	if got := refusal(t, Options{File: path}); !strings.HasPrefix(got, "configuration file FILE: it names commands to run, but others can replace it: chmod go-w ") {
		t.Errorf("a group: got %s", got)
	}
	if got, want := refusal(t, Options{File: "/dev/null"}), "configuration file FILE: is neither a file nor a pipe"; got != want {
		t.Errorf("a device: got %s, want %s", got, want)
	}
	chmod(t, dir, 0o777|fs.ModeSticky)
	mustLoad(t, Options{File: path})
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
