//go:build unix

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"orchestrate/internal/queue"
)

// Build builds the program as it is released, and returns its path in dir.
func Build(ctx context.Context, dir string) (string, error) {
	return build(ctx, filepath.Join(dir, "orchestrate"))
}

func build(ctx context.Context, bin string, flags ...string) (string, error) {
	args := append([]string{"build", "-buildvcs=false", "-o", bin}, append(flags, "orchestrate/cmd/orchestrate")...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // our own
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return bin, nil
}

// Site is a directory with a configuration, and the processes that follow it.
type Site struct {
	Dir      string
	Database string // a path or a URL
	Listen   string
	Admin    string
	Out      string // where handlers write
	Env      []string
	Within   []string // a command that starts the program, if not empty

	bin   string
	mu    sync.Mutex
	nodes []*Node
}

// configuration of a site: short waits, so that a retry is seen within a test.
const configuration = `listen: %s
admin_listen: %s
database: %q
secrets: ["file:%s/secret"]
log: {format: json, level: info}
drain_timeout: 2s
processor: {concurrency: 4, poll_interval: 500ms}
`

const route = `  - name: %s
    on: [%s]
    run: {command: [%q, handle], env: {%s: %q}, timeout: 60s, grace: 1s}
`

// The waits of a site.
const (
	RetryBase       = time.Second
	UnavailableBase = 2 * time.Second
)

// NewSite makes one in dir. handler is a program that calls Handle when its first
// argument is "handle"; an empty database is a file in dir.
func NewSite(dir, bin, handler, database string) (*Site, error) {
	s := &Site{Dir: dir, Database: database, Out: filepath.Join(dir, "out"), bin: bin}
	if database == "" {
		s.Database = filepath.Join(dir, "state", "q.db")
	}
	var err error
	if s.Listen, err = FreeAddress(); err != nil {
		return nil, err
	}
	if s.Admin, err = FreeAddress(); err != nil {
		return nil, err
	}
	events := map[string][]string{}
	for event, routes := range Routes {
		for _, name := range routes {
			events[name] = append(events[name], event)
		}
	}
	routes := fmt.Sprintf("retry: {max: 3, base: %s, unavailable: {base: %s, for: 1h}}\nroutes:\n", RetryBase, UnavailableBase)
	for _, name := range slices.Sorted(maps.Keys(events)) {
		slices.Sort(events[name])
		routes += fmt.Sprintf(route, name, strings.Join(events[name], ", "), handler, OutVariable, s.Out)
	}
	return s, errors.Join(os.MkdirAll(s.Out, 0o700), s.Configure(routes), os.WriteFile(s.path("secret"), []byte(Secret+"\n"), 0o600))
}

// Configure replaces what is configured of retries and routes.
func (s *Site) Configure(routes string) error {
	text := fmt.Sprintf(configuration, s.Listen, s.Admin, s.Database, s.Dir) + routes
	return os.WriteFile(s.path("config.yaml"), []byte(text), 0o600)
}

func (s *Site) path(name string) string { return filepath.Join(s.Dir, name) }

var sites atomic.Int64

// FreeAddress is one on the loopback that nobody listens at. Where the loopback
// is more than one address, as on Linux, each site has one of its own, so that
// none is given the port that another is about to use.
func FreeAddress() (string, error) {
	n := sites.Add(1)
	own := fmt.Sprintf("127.%d.%d.%d:0", 1+os.Getpid()%250, 1+n/250%250, 1+n%250)
	var listen net.ListenConfig
	l, err := listen.Listen(context.Background(), "tcp", own)
	if err != nil {
		l, err = listen.Listen(context.Background(), "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Command is a command line of the program, not started. Its standard error goes
// to a log of the site.
func (s *Site) Command(ctx context.Context, args ...string) *exec.Cmd {
	whole := slices.Concat(s.Within, []string{s.bin}, args)
	cmd := exec.CommandContext(ctx, whole[0], whole[1:]...) //nolint:gosec // our own
	cmd.Env = append([]string{"ORCHESTRATE_CONFIG=" + s.path("config.yaml"), "HOME=" + s.Dir, "PATH=" + os.Getenv("PATH")}, s.Env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Node is a process of the program that stays until it is ended.
type Node struct {
	site *Site
	name string
	args []string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
}

// Start starts a process. Its log is Dir/NAME.log, to which every life adds.
func (s *Site) Start(name string, args ...string) (*Node, error) {
	n := &Node{site: s, name: name, args: args}
	s.mu.Lock()
	s.nodes = append(s.nodes, n)
	s.mu.Unlock()
	return n, n.Start()
}

// Start starts it again.
func (n *Node) Start() error {
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n.log, n.done = log, make(chan struct{})
	n.cmd = n.site.Command(context.Background(), n.args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // ProcessState tells
		_ = log.Close()
		close(done)
	}(n.cmd, n.done)
	return nil
}

// LogFile is where what it logs goes.
func (n *Node) LogFile() string { return n.site.path(n.name + ".log") }

// PID is the process.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Ended is closed when the process has ended.
func (n *Node) Ended() <-chan struct{} { return n.done }

// ExitCode is that of a process that has ended; -1: by a signal.
func (n *Node) ExitCode() int { return n.cmd.ProcessState.ExitCode() }

// Signal sends a signal; that the process has ended already is no error.
func (n *Node) Signal(sig syscall.Signal) error {
	if err := n.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Kill ends it as the kernel's out-of-memory killer does, and waits for its end.
func (n *Node) Kill() error {
	err := n.Signal(syscall.SIGKILL)
	<-n.done
	return err
}

// Stop asks it to end and returns its exit code; an error says that it did not
// within the time.
func (n *Node) Stop(within time.Duration) (int, error) {
	if err := n.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case <-n.done:
		return n.cmd.ProcessState.ExitCode(), nil
	case <-time.After(within):
		return 0, errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", n.name, within), n.Kill())
	}
}

// Close kills what runs, with what a broken program has left behind.
func (s *Site) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, n := range s.nodes {
		if n.cmd != nil && n.cmd.Process != nil {
			errs = append(errs, n.Kill())
		}
	}
	for _, pid := range survivors(s.Out) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // an error: it has ended
	}
	// A killed worker leaves the cgroups of its attempts to the next, and here
	// there is none.
	links, _ := filepath.Glob(filepath.Join(filepath.Dir(s.Database), "attempts", "*", "cgroup"))
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil {
			errs = append(errs, removeCgroup(dir))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup waits for those that were killed in it.
func removeCgroup(dir string) error {
	for range 100 {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		Pause(context.Background(), 20*time.Millisecond)
	}
	return fmt.Errorf("%s is still in use", dir)
}

// AwaitReady waits until the server of the site says that it is ready, and
// returns how long that took.
func (s *Site) AwaitReady(ctx context.Context, n *Node, within time.Duration) (time.Duration, error) {
	begun := queue.Clock()
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("%s is not ready after %s", n.name, within))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/readyz", nil)
		if err != nil {
			return 0, err
		}
		if res, err := client.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return queue.Clock().Sub(begun), nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-n.done:
			return 0, fmt.Errorf("%s ended with %d: %s", n.name, n.cmd.ProcessState.ExitCode(), tail(n.LogFile()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tail is the end of a file, for a message.
func tail(path string) string {
	text, err := os.ReadFile(path) //nolint:gosec // a log of ours
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-2000):]))
}
