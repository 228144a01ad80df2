package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orchestrate/internal/chaos"
	"orchestrate/internal/chaos/disk/faultfs"
	"orchestrate/internal/queue"
)

// lab is a disk with a site on it, and what is known about both.
type lab struct {
	dir    string
	seed   uint64
	disk   *faultfs.FS
	site   *chaos.Site
	sender *chaos.Sender
	told   []string // figures
	n      int      // deliveries so far
	step   int      // over what is tried one by one
}

func newLab(dir string, o options) (*lab, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, seed: o.seed, step: 1, disk: faultfs.New()}
	if o.short {
		l.step = 5
	}
	if err := os.MkdirAll(l.mountpoint(), 0o700); err != nil {
		return nil, err
	}
	if err := l.disk.Mount(l.mountpoint()); faultfs.Refused(err) {
		return nil, chaos.NotRun{Why: "nothing can be mounted here: " + err.Error()}
	} else if err != nil {
		return nil, err
	}
	if err := l.durable("state"); err != nil {
		return nil, errors.Join(err, l.disk.Unmount())
	}
	if l.site, err = chaos.NewSite(dir, filepath.Join(o.within, "orchestrate"), self, filepath.Join(l.mountpoint(), "state", "q.db")); err != nil {
		return nil, errors.Join(err, l.disk.Unmount())
	}
	l.sender = chaos.NewSender(chaos.NewLedger(), l.site.Listen)
	return l, nil
}

// durable makes a directory that a loss of power does not take.
func (l *lab) durable(name string) error {
	if err := os.Mkdir(filepath.Join(l.mountpoint(), name), 0o700); err != nil {
		return err
	}
	d, err := os.Open(l.mountpoint())
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (l *lab) mountpoint() string { return filepath.Join(l.dir, "mnt") }

func (l *lab) close() error {
	l.sender.Close()
	return errors.Join(l.site.Close(), l.disk.Unmount())
}

func (l *lab) tell(format string, args ...any) { l.told = append(l.told, fmt.Sprintf(format, args...)) }

func (l *lab) start(ctx context.Context, name string, args ...string) (*chaos.Node, error) {
	n, err := l.site.Start(name, args...)
	if err != nil {
		return n, err
	}
	if args[0] != "serve" {
		_, err = await(ctx, name+" works", 20*time.Second, func() bool {
			text, err := os.ReadFile(n.LogFile())
			return err == nil && bytes.Contains(text, []byte("worker registered"))
		})
		return n, err
	}
	_, err = l.site.AwaitReady(ctx, n, 20*time.Second)
	return n, err
}

// next is a delivery of about size bytes.
func (l *lab) next(size int) chaos.Delivery {
	l.n++
	d := chaos.Delivery{ID: fmt.Sprintf("d-%d", l.n), Event: []string{"push", "issues", "fork"}[l.n%3]}
	d.Body = fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, l.n, noise(l.seed+uint64(l.n), size)) //nolint:gosec // G115: counts up
	return d
}

// post sends it, and returns the status and how long its answer took.
func (l *lab) post(ctx context.Context, size int) (status int, took time.Duration) {
	d := l.next(size)
	begun := queue.Clock()
	status = l.sender.Post(ctx, d)
	return status, queue.Clock().Sub(begun)
}

// noise can't be compressed.
func noise(seed uint64, size int) string {
	var b strings.Builder
	for x := seed*2862933555777941757 + 3037000493; b.Len() < size; x = x*6364136223846793005 + 1442695040888963407 {
		fmt.Fprintf(&b, "%016x", x)
	}
	return b.String()[:size]
}

// redeliver sends everything again, and fails unless all of it is acknowledged.
func (l *lab) redeliver(ctx context.Context) error {
	for _, e := range l.sender.Ledger.Entries() {
		if status := l.sender.Post(ctx, chaos.Delivery{ID: e.ID, Event: e.Event, Body: e.Body}); status != http.StatusOK {
			return fmt.Errorf("redelivery of %s was answered %d", e.ID, status)
		}
	}
	return nil
}

// ready is the status of /readyz; 0: nobody answers.
func (l *lab) ready(ctx context.Context) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.site.Admin+"/readyz", nil)
	if err != nil {
		return 0
	}
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// await returns how long something took to become true.
func await(ctx context.Context, what string, within time.Duration, ok func() bool) (time.Duration, error) {
	begun := queue.Clock()
	for !ok() {
		if queue.Clock().Sub(begun) > within || ctx.Err() != nil {
			return 0, fmt.Errorf("%s: not within %s", what, within)
		}
		<-time.After(20 * time.Millisecond)
	}
	return queue.Clock().Sub(begun), nil
}

// ends waits for a node to end by itself, and holds its exit code and its last
// word to what was promised.
func (l *lab) ends(n *chaos.Node, within time.Duration, wantCode int, wantText string) error {
	begun := queue.Clock()
	select {
	case <-n.Ended():
	case <-time.After(within):
		text, err := os.ReadFile(n.LogFile())
		return errors.Join(fmt.Errorf("%s has not ended %s after the fault: %s", n.LogFile(), within, text[max(0, len(text)-3000):]), err)
	}
	l.tell("%s ended after %.1f s", strings.TrimSuffix(filepath.Base(n.LogFile()), ".log"), queue.Clock().Sub(begun).Seconds())
	text, err := os.ReadFile(n.LogFile())
	if err != nil {
		return err
	}
	last := text[bytes.LastIndexByte(bytes.TrimSpace(text), '\n')+1:]
	if code := n.ExitCode(); code != wantCode || !bytes.Contains(last, []byte(wantText)) {
		return fmt.Errorf("%s ended with %d, want %d; its last line is %q, want %q in it", n.LogFile(), code, wantCode, last, wantText)
	}
	return nil
}

// command runs a command to its end.
func (l *lab) command(ctx context.Context, args ...string) (code int, output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := l.site.Command(ctx, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out), nil
	}
	return 0, string(out), err
}

// powerLoss takes away what was not synced. Everybody has ended, or is ended.
func (l *lab) powerLoss(seed uint64) error {
	l.disk.PowerLoss(seed)
	return errors.Join(l.site.Close(), l.disk.Unmount(), l.disk.Mount(l.mountpoint()))
}

// fresh goes on with another database, which is not there yet.
func (l *lab) fresh(state string) {
	l.sender.Close()
	l.sender = chaos.NewSender(chaos.NewLedger(), l.site.Listen)
	l.site.Database = filepath.Join(l.mountpoint(), state, "q.db")
	l.site.Env = []string{"ORCHESTRATE_DATABASE=" + l.site.Database}
}

// check holds the database against the ledger, at rest; where an operator has
// intervened, by the invariants that are named.
func (l *lab) check(ctx context.Context, invariants ...int) error {
	if err := l.site.Close(); err != nil {
		return err
	}
	copied := filepath.Join(l.dir, fmt.Sprintf("export-%d", queue.Clock().UnixNano()))
	if err := l.disk.Export(copied); err != nil {
		return err
	}
	findings, err := chaos.Check(ctx, filepath.Join(copied, filepath.Base(filepath.Dir(l.site.Database)), "q.db"), chaos.Facts{Ledger: l.sender.Ledger, Out: l.site.Out})
	if err != nil {
		return err
	}
	findings = slices.DeleteFunc(findings, func(f chaos.Finding) bool {
		return len(invariants) > 0 && f.Invariant > 0 && !slices.Contains(invariants, f.Invariant)
	})
	var table strings.Builder
	if n := chaos.Report(&table, findings); n > 0 {
		return fmt.Errorf("%d violations\n%s", n, table.String())
	}
	l.tell("%d acknowledged, 0 lost", l.sender.Ledger.Acked())
	return nil
}

// limitFiles bounds the descriptors of a process.
func limitFiles(pid int, n uint64) error {
	limit := unix.Rlimit{Cur: n, Max: n}
	return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
}
