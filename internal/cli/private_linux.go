package cli

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// keepToOurselves keeps from the commands that a daemon starts what belongs to
// it: its environment with the secrets in it, which a process of the same user
// could read under /proc, and the files that it was started with. Root reads
// everything all the same. Neither can be refused, so there is no error to tell.
func keepToOurselves() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	open, _ := os.ReadDir("/proc/self/fd")
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
