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
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"orchestrate/internal/chaos"
)

const (
	failed = 1
	notRun = 3
)

func main() { os.Exit(run(os.Stdout, os.Stderr)) }

func run(stdout, stderr io.Writer) int {
	runtime.LockOSThread() // with it what we start would end
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := probe(ctx); err != nil {
		_, _ = fmt.Fprintf(stdout, "not run: %s\n", err)
		return notRun
	}
	if err := nodes(ctx, stdout, stderr); err != nil {
		_, _ = fmt.Fprintln(stderr, "netns:", err)
		return failed
	}
	return 0
}

// probe does for nothing all that the test will do.
func probe(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "netns-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // empty
	cmd := isolated(ctx, dir, `
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

// isolated is a machine without a network.
func isolated(ctx context.Context, dir, script string, args ...string) *exec.Cmd {
	return chaos.Isolated(ctx, syscall.CLONE_NEWNET, dir, "ip link set lo up\n"+script, args...)
}

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
	cmd := isolated(ctx, scratch, "\nexport TMPDIR=\"$0\"\n\"$@\"\nexit\n",
		test, "-test.run", "^TestNodesInNamespaces$", "-test.v", "-test.timeout", "2h")
	cmd.Dir, cmd.Stdout, cmd.Stderr = pkg, stdout, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nodes in namespaces: %w", err)
	}
	return nil
}
