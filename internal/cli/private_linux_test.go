package cli

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKeepToOurselves: no child gets a file that this process was started with,
// and its environment is no other process's business.
func TestKeepToOurselves(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // not closed by exec, as what a shell hands over
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(dumpable), 0, 0, 0) })
	keepToOurselves()
	if got, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); got != 0 || err != nil {
		t.Errorf("dumpable is %d, %v; want 0", got, err)
	}
	out, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasSuffix(strings.TrimSpace(line), "-> "+os.DevNull) && !strings.Contains(line, " 0 -> ") {
			t.Errorf("a child got the file: %s", line)
		}
	}
}
