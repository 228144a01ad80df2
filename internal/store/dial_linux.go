package store

import (
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialer gives up a connection whose other side has gone without a word: the
// kernel would try for a quarter of an hour.
var dialer = net.Dialer{
	KeepAliveConfig: keepAlive,
	Control: func(network, _ string, c syscall.RawConn) (err error) {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		control := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
		})
		if control != nil {
			return control
		}
		return err
	},
}
