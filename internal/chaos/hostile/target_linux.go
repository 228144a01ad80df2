package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

// The bounds that are promised.
const (
	mostMemory = 512 << 20       // bytes of resident memory
	mostLines  = 80              // of refusals, for each attack
	leastRate  = 3000            // refused signatures for each second of the server's processor
	latest     = time.Second     // the p99 of good deliveries, beside a flood
	inTime     = 8 * time.Second // any of them
	clockTicks = 100             // of /proc/PID/stat: Linux' USER_HZ
	heartbeats = 32              // pages of the write-ahead log, of a few
)

// target is the server that is attacked, and the good deliveries to it.
type target struct {
	o      options
	site   *chaos.Site
	node   *chaos.Node
	sender *chaos.Sender
	sent   int
	bad    []string
	calm   time.Duration // the p99 when nothing else went on: how busy the machine is
}

// result is what an attack did.
type result struct {
	connections, refused, good int
	p99, worst                 time.Duration
	cpu                        time.Duration // of the server
	peak                       int64         // bytes
	lines, rows                int
}

func (r result) rate() string {
	if r.refused == 0 || r.cpu == 0 {
		return "-"
	}
	return strconv.Itoa(int(float64(r.refused) / r.cpu.Seconds()))
}

func newTarget(ctx context.Context, dir string, o options) (*target, error) {
	dir = filepath.Join(dir, "attacked")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	site, err := chaos.NewSite(dir, o.bin, "/bin/true", "")
	if err != nil {
		return nil, err
	}
	node, err := site.Start("serve", "serve", "--no-process")
	if err != nil {
		return nil, err
	}
	if _, err := site.AwaitReady(ctx, node, 10*time.Second); err != nil {
		return nil, errors.Join(err, site.Close())
	}
	return &target{o: o, site: site, node: node, sender: chaos.NewSender(chaos.NewLedger(), site.Listen)}, nil
}

func (t *target) complain(format string, args ...any) {
	t.bad = append(t.bad, fmt.Sprintf(format, args...))
}

// meet makes an attack while good deliveries go on, and judges it.
func (t *target) meet(ctx context.Context, a attack) (r result, err error) {
	rows, err := t.rows(ctx)
	if err != nil {
		return r, err
	}
	acked, cpu, log := t.sender.Ledger.Acked(), t.cpu(), t.logSize()
	stop, good := make(chan struct{}), make(chan []time.Duration, 1)
	go func() {
		if a.alone {
			<-stop
		}
		good <- t.deliver(ctx, a, stop)
	}()
	v := &visit{target: t, ctx: ctx, alone: a.alone, ends: queue.Clock().Add(t.o.last)}
	err = a.make(v)
	close(stop)
	took := <-good
	if err != nil {
		return r, err
	}
	r = result{connections: int(v.connections.Load()), refused: int(v.refused.Load()), good: len(took), cpu: t.cpu() - cpu, peak: t.peak()}
	if len(took) > 0 {
		slices.Sort(took)
		r.p99, r.worst = took[len(took)*99/100], took[len(took)-1]
	}
	if t.calm == 0 {
		t.calm = r.p99
	}
	now, err := t.rows(ctx)
	if err != nil {
		return r, err
	}
	r.rows = (now - rows) - (t.sender.Ledger.Acked() - acked) - int(v.strangers.Load())
	r.lines = t.refusalLines(log)
	t.judge(a, r)
	return r, nil
}

func (t *target) judge(a attack, r result) {
	switch {
	case r.good == 0 && !a.alone:
		t.complain("%s: no good delivery got through", a.name)
	case a.flood && r.p99 > max(latest, 10*t.calm):
		t.complain("%s: the p99 of good deliveries was %s, at most %s is promised", a.name, r.p99, latest)
	case r.worst > inTime:
		t.complain("%s: a good delivery took %s, at most %s is promised", a.name, r.worst, inTime)
	}
	if r.peak > mostMemory {
		t.complain("%s: %d MB of memory, at most %d MB are promised", a.name, r.peak>>20, mostMemory>>20)
	}
	if r.lines > mostLines {
		t.complain("%s: %d lines about refusals, at most %d are promised", a.name, r.lines, mostLines)
	}
	if r.rows != 0 && !a.fills {
		t.complain("%s: %d rows more than good deliveries", a.name, r.rows)
	}
	if a.flood && float64(r.refused) < leastRate*r.cpu.Seconds() {
		t.complain("%s: %s refusals for each second of a processor, %d are promised", a.name, r.rate(), leastRate)
	}
}

// deliver sends good deliveries, 2 at a time, until it is stopped, and returns
// how long each took. One that is refused is a violation, unless the attack is
// that memory is full of good ones.
func (t *target) deliver(ctx context.Context, a attack, stop <-chan struct{}) (took []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				mu.Lock()
				t.sent++
				d := chaos.Delivery{ID: fmt.Sprintf("good-%d", t.sent), Event: "push"}
				mu.Unlock()
				d.Body = fmt.Appendf(nil, `{"pad":%q}`, strings.Repeat("x", 8<<10))
				begun := queue.Clock()
				status := t.sender.Post(ctx, d)
				mu.Lock()
				if status == http.StatusOK {
					took = append(took, queue.Clock().Sub(begun))
				} else if !a.fills || status != http.StatusServiceUnavailable {
					t.complain("%s: a good delivery was answered %d", a.name, status)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return took
}

// check holds the database against the ledger.
func (t *target) check(ctx context.Context) error {
	findings, err := chaos.Check(ctx, t.site.Database, chaos.Facts{Ledger: t.sender.Ledger, Out: t.site.Out, Files: []string{t.node.LogFile(), t.site.Database}})
	if err != nil {
		return err
	}
	for _, f := range findings {
		for _, b := range f.Bad {
			t.complain("%s: %s", f.What, b)
		}
	}
	for _, b := range t.sender.Ledger.Bad() {
		t.complain("ledger: %s", b)
	}
	return nil
}

// finish asks the server to end.
func (t *target) finish() error {
	t.sender.Close()
	code, err := t.node.Stop(15 * time.Second)
	if code != 0 {
		t.complain("the server ended with %d", code)
	}
	if log, readErr := os.ReadFile(t.node.LogFile()); readErr != nil || bytes.Contains(log, []byte("panic")) {
		t.complain("the log tells of a panic (or can't be read: %v)", readErr)
	}
	return err
}

func (t *target) rows(ctx context.Context) (n int, err error) {
	db, err := chaos.Open(t.site.Database)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	return n, db.QueryRowContext(ctx, `SELECT count(*) FROM webhook_events`).Scan(&n)
}

// written is which log it is, by its salt, and how many pages were committed to
// it, as its index says (sqlite.org/walformat.html): its file is written over, and
// does not grow.
func (t *target) written() (salt uint64, pages uint32, err error) {
	index, err := os.ReadFile(t.site.Database + "-shm")
	if err != nil || len(index) < 40 {
		return 0, 0, fmt.Errorf("the index of the log has %d bytes: %w", len(index), err)
	}
	return binary.NativeEndian.Uint64(index[32:]), binary.NativeEndian.Uint32(index[16:]), nil
}

func (t *target) logSize() int64 {
	st, err := os.Stat(t.node.LogFile())
	if err != nil {
		return 0
	}
	return st.Size()
}

// refusalLines counts those behind from.
func (t *target) refusalLines(from int64) int {
	text, err := os.ReadFile(t.node.LogFile())
	if err != nil || int64(len(text)) < from {
		t.complain("the log has %d bytes, fewer than before (%v)", len(text), err)
		return 0
	}
	n := 0
	for line := range bytes.Lines(text[from:]) {
		if !bytes.Contains(line, []byte(`"msg":"received"`)) {
			n++
		}
	}
	return n
}

func (t *target) proc(file string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", t.node.PID(), file))
	if err != nil {
		return ""
	}
	return string(text)
}

// cpu is what the server has used of all processors.
func (t *target) cpu() time.Duration {
	_, rest, _ := strings.Cut(t.proc("stat"), ") ")
	f := strings.Fields(rest) // from the third field on
	if len(f) < 13 {
		return 0
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return time.Duration(user+system) * time.Second / clockTicks
}

// peak is the most resident memory that the server ever had, in bytes.
func (t *target) peak() int64 {
	_, rest, _ := strings.Cut(t.proc("status"), "VmHWM:")
	kilobytes, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseInt(kilobytes, 10, 64)
	if err != nil {
		return mostMemory + 1
	}
	return n << 10
}

// visit is an attack that goes on.
type visit struct {
	*target
	ctx                  context.Context //nolint:containedctx // of one call
	ends                 time.Time
	alone                bool
	connections, refused atomic.Int64
	strangers            atomic.Int64 // deliveries stored that are not in the ledger
}

func (v *visit) over() bool { return v.ctx.Err() != nil || queue.Clock().After(v.ends) }

func (v *visit) dial() (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(v.ctx, "tcp", v.site.Listen)
	if err == nil {
		v.connections.Add(1)
	}
	return c, err
}
