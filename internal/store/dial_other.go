//go:build !linux

package store

import "net"

var dialer = net.Dialer{KeepAliveConfig: keepAlive}
