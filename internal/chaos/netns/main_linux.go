// Netns runs the nodes of cmd/orchestrate's TestNodes with a network namespace
// for each: a cable that is pulled loses packets, where a proxy can only keep
// them. It ends with 0, with 1 when something was lost, and with 3 when the
// kernel, or whoever is responsible for this machine, does not allow it; make
// would turn any failure into 2. NODES_ROUNDS and NODES_SEED are those of
// TestNodes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"orchestrate/internal/chaos"
)

func main() { os.Exit(chaos.Main("netns", os.Args[1:], os.Stdin, os.Stdout, os.Stderr, run)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	runtime.LockOSThread() // with it what we start would end
	if err := chaos.Parse(flag.NewFlagSet("netns", flag.ContinueOnError), args, stderr); err != nil {
		return err
	}
	if err := probe(ctx); err != nil {
		return chaos.NotRun{Why: err.Error()}
	}
	return nodes(ctx, stdout, stderr)
}

// probe does for nothing all that the test will do.
func probe(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "netns-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // empty
	cmd := chaos.Isolated(ctx, syscall.CLONE_NEWNET, dir, loopback+`
ip link add probe0 type bridge
ip addr add 198.18.0.1/24 dev probe0
ip netns add probe
ip link add probe1 type veth peer name eth0 netns probe
ip link set probe1 master probe0 up
ip netns exec probe true
`)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("network namespaces can't be made here: %w %s", err, strings.Join(strings.Fields(string(out)), " "))
	}
	return nil
}

// loopback is all the network that there is at first.
const loopback = "ip link set lo up\n"

// nodes builds the test out here, where there is a network, and runs it.
func nodes(ctx context.Context, stdout, stderr io.Writer) (err error) {
	where, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	dir, err := os.MkdirTemp("", "netns-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	scratch, test := filepath.Join(dir, "tmp"), filepath.Join(dir, "nodes.test")
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(scratch, 0o700)); err != nil { //nolint:gosec // the server of the test runs as another user
		return err
	}
	pkg := filepath.Join(strings.TrimSpace(string(where)), "cmd", "orchestrate")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "netns", "-o", test, ".") //nolint:gosec // a file of our own
	build.Dir = pkg
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the test: %w\n%s", err, out)
	}
	if err := os.Chdir(pkg); err != nil { // where the test finds its files
		return err
	}
	return chaos.RunIsolated(ctx, syscall.CLONE_NEWNET, scratch, loopback, stdout, stderr,
		test, "-test.run", "^TestNodesInNamespaces$", "-test.v", "-test.timeout", "2h")
}
