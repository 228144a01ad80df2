//go:build linux && netns

package main

import (
	"fmt"
	"maps"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"orchestrate/internal/store/pgtest"
)

// The network is one that RFC 2544 keeps for tests; the first address is the
// bridge's.
const (
	bridge  = "nodes0"
	network = "198.18.0."
)

// TestNodesInNamespaces is TestNodes with a network namespace for each node.
// internal/chaos/netns runs it in one where it may make more.
func TestNodesInNamespaces(t *testing.T) {
	ip := func(args ...string) {
		t.Helper()
		if err := run("ip", args...); err != nil {
			t.Fatal(err)
		}
	}
	ip("link", "add", bridge, "type", "bridge")
	ip("addr", "add", network+"1/24", "dev", bridge)
	ip("link", "set", bridge, "up")
	settings := maps.Clone(pgtest.Durable)
	settings["listen_addresses"] = "'127.0.0.1," + network + "1'"
	server := pgtest.Private(t, settings)
	server.Exec(t, "postgres", "CREATE ROLE node SUPERUSER LOGIN PASSWORD '"+password+"'")
	nodes := 0
	newCluster(t, server, seed(t), func(n *node, database string) {
		nodes++
		name, address := fmt.Sprint("node", nodes), network+strconv.Itoa(1+nodes)
		l := link{t, name}
		ip("netns", "add", name)
		ip("link", "add", l.host, "type", "veth", "peer", "name", "eth0", "netns", name)
		ip("link", "set", l.host, "master", bridge, "up")
		ip("-n", name, "addr", "add", address+"/24", "dev", "eth0")
		ip("-n", name, "link", "set", "lo", "up")
		ip("-n", name, "link", "set", "eth0", "up")
		n.way, n.within = l, []string{"ip", "netns", "exec", name}
		n.listen, n.admin = net.JoinHostPort(address, "9000"), net.JoinHostPort(address, "9001")
		n.env = []string{
			"ORCHESTRATE_LISTEN=" + n.listen, "ORCHESTRATE_ADMIN_LISTEN=" + n.admin, "PGPASSWORD=" + password,
			fmt.Sprintf("ORCHESTRATE_DATABASE=postgres://node@%s:%d/%s", network+"1", server.Port, database),
		}
	}).suffer()
}

// link is the end of a node's cable at the bridge.
type link struct {
	t    *testing.T
	host string
}

// Refuse takes the cable's power: both ends see it.
func (l link) Refuse(refuse bool) {
	l.set(map[bool]string{true: "down", false: "up"}[refuse])
}

// Hold takes it out of the bridge: both ends believe that they are connected.
func (l link) Hold(hold bool) {
	if hold {
		l.set("nomaster")
		return
	}
	l.set("master", bridge)
}

// Cut does nothing: a network breaks no connections.
func (l link) Cut() {}

// Latency does nothing: few kernels come with netem.
func (l link) Latency(time.Duration) {}

// SlowClose does nothing: it is the kernel that closes.
func (l link) SlowClose(time.Duration) {}

func (l link) set(how ...string) {
	if err := run("ip", append([]string{"link", "set", l.host}, how...)...); err != nil {
		l.t.Error(err)
	}
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
