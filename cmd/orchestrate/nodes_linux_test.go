package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
)

// The handler of every node. It holds a lock as long as it or anything that it
// started lives, so that two at once for one job are found out. The first attempt
// of a long one ends when it is told to; three of a flaky one fail.
const nodesHandler = `
exec 9>>"$OUT/$ORCHESTRATE_DELIVERY_ID.lock"
flock -n 9 || echo "$ORCHESTRATE_DELIVERY_ID $ORCHESTRATE_ATTEMPT" >>"$OUT/overlaps"
if test "$ORCHESTRATE_ROUTE $ORCHESTRATE_ATTEMPT" = "long 1"; then
	echo $$ >"$OUT/$ORCHESTRATE_DELIVERY_ID.new" && mv "$OUT/$ORCHESTRATE_DELIVERY_ID.new" "$OUT/$ORCHESTRATE_DELIVERY_ID.pid"
	n=0
	until test -e "$OUT/$ORCHESTRATE_DELIVERY_ID.end" || test $((n += 1)) -gt 600; do sleep 0.2; done
fi
if test "$ORCHESTRATE_ROUTE" = flaky; then
	echo "$ORCHESTRATE_DELIVERY_ID $ORCHESTRATE_ATTEMPT $(date +%s%3N)" >>"$OUT/times"
	test "$ORCHESTRATE_ATTEMPT" = 4 || exit 1
fi
echo "$ORCHESTRATE_IDEMPOTENCY_KEY" >>"$OUT/done"
`

const nodesConfig = `
processor: {concurrency: 3, poll_interval: 1s}
log: {format: json, level: warn}
routes:
  - name: work
    on: [push]
    run: {command: [sh, "%OUT%/handler.sh"], env: {OUT: "%OUT%"}, pass_env: [PATH]}
  - name: long
    on: [issues]
    concurrency: 1 # so that each worker gets one
    run: {command: [sh, "%OUT%/handler.sh"], env: {OUT: "%OUT%"}, pass_env: [PATH], timeout: 5m}
  - name: flaky
    on: [watch]
    run: {command: [sh, "%OUT%/handler.sh"], env: {OUT: "%OUT%"}, pass_env: [PATH]}
`

// node is one process on the way to the one database.
type node struct {
	*program
	name   string
	args   []string
	way    way
	daemon *daemon
}

// way leads from a node to the others, and can be made worse.
type way interface {
	// Refuse breaks it at once; with false it is there again.
	Refuse(refuse bool)
	// Hold loses all that is sent, and tells nobody.
	Hold(hold bool)
	// Cut breaks the connections that there are.
	Cut()
	// Latency delays each message.
	Latency(d time.Duration)
	// SlowClose tells the other end late that this one has gone.
	SlowClose(d time.Duration)
}

func (n *node) up() { n.daemon = n.start(n.args...) }

func (n *node) pid() int { return n.daemon.cmd.Process.Pid }

// said counts the lines of its log that have a message.
func (n *node) said(message string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Count(n.stderr.Bytes(), []byte(`"msg":"`+message))
}

func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.daemon.cmd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
}

// ledger is the senders' own record of what was acknowledged.
type ledger struct {
	mu    sync.Mutex
	acked map[string]int64 // delivery id to event id
}

func (l *ledger) note(t *testing.T, id string, event int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, known := l.acked[id]; known && before != event {
		t.Errorf("%s was acknowledged as event %d and as event %d", id, before, event)
	}
	l.acked[id] = event
}

// cluster is all of them, and what their sender knows.
type cluster struct {
	t                  *testing.T
	server             *pgtest.Server
	db, out            string
	receivers, workers []*node
	dice               *rand.Rand
	holds              int

	mu    sync.Mutex
	acked map[string]string // delivery id to the digest of its body
	ids   ledger
	turns atomic.Int64 // of the balancer
}

// newCluster starts the nodes; arrange may change each before that.
func newCluster(t *testing.T, server *pgtest.Server, seed uint64, arrange func(n *node, database string)) *cluster {
	t.Helper()
	c := &cluster{
		t: t, server: server, out: t.TempDir(), dice: rand.New(rand.NewPCG(seed, 0)),
		acked: map[string]string{}, ids: ledger{acked: map[string]int64{}},
	}
	url := c.server.Database(t)
	c.db = databaseName(t, url)
	if err := os.WriteFile(filepath.Join(c.out, "handler.sh"), []byte(nodesHandler), 0o600); err != nil {
		t.Fatal(err)
	}
	add := func(name string, args ...string) *node {
		proxy := pgtest.NewProxy(t, c.server)
		n := &node{newProgramOn(t, proxy.URL(url), strings.ReplaceAll(nodesConfig, "%OUT%", c.out)), name, args, proxy, nil}
		arrange(n, c.db)
		n.up()
		return n
	}
	for i := range 2 {
		c.receivers = append(c.receivers, add(fmt.Sprint("receiver ", i), "serve", "--no-process"))
	}
	for i := range 3 {
		c.workers = append(c.workers, add(fmt.Sprint("worker ", i), "process"))
	}
	for _, r := range c.receivers {
		r.eventually("a receiver is ready", r.ready)
	}
	return c
}

func (p *program) ready() bool {
	res, err := http.Get("http://" + p.admin + "/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (c *cluster) all() []*node { return append(append([]*node{}, c.receivers...), c.workers...) }

// rows asks the database, past all proxies.
func (c *cluster) rows(query string, args ...any) [][]string {
	c.t.Helper()
	return c.server.Rows(c.t, c.db, query, args...)
}

func (c *cluster) number(query string, args ...any) int {
	c.t.Helper()
	n, err := strconv.Atoi(c.rows(query, args...)[0][0])
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// deliver sends a webhook as a load balancer does: to one receiver after the
// other until one answers 200.
func (c *cluster) deliver(client *http.Client, id, event string, size int) {
	body := fmt.Appendf(nil, `{"n":%q,"pad":%q}`, id, strings.Repeat("\\u0000é", size))
	d := delivery{id: id, event: event, body: body}
	give := time.After(2 * time.Minute)
	for {
		r := c.receivers[int(c.turns.Add(1))%len(c.receivers)]
		status, receipt, err := post(client, r.listen, d)
		switch {
		case err == nil && status == http.StatusOK:
			c.ids.note(c.t, id, receipt.EventID)
			sum := sha256.Sum256(body)
			c.mu.Lock()
			c.acked[id] = hex.EncodeToString(sum[:])
			c.mu.Unlock()
			return
		case err == nil && status != http.StatusServiceUnavailable:
			c.t.Errorf("%s: got %d, want 200 or 503", id, status)
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-give:
			c.t.Errorf("%s: no receiver took it for two minutes: %d, %v", id, status, err)
			return
		}
	}
}

// load sends until it is told to stop.
func (c *cluster) load() (stop func()) {
	ending := make(chan struct{})
	var wg sync.WaitGroup
	for s := range 4 {
		dice := rand.New(rand.NewPCG(uint64(s), 1))
		wg.Go(func() {
			client := &http.Client{Timeout: 10 * time.Second} // as GitHub
			defer client.CloseIdleConnections()
			for n := 0; ; n++ {
				c.deliver(client, fmt.Sprintf("work-%d-%d", s, n), "push", dice.IntN(500))
				select {
				case <-time.After(250 * time.Millisecond):
				case <-ending:
					return
				}
			}
		})
	}
	return func() { close(ending); wg.Wait() }
}

// hold has each of the workers that have none run a long handler, and returns the
// deliveries by worker.
func (c *cluster) hold(workers ...*node) map[*node]string {
	c.t.Helper()
	held := map[*node]string{}
	for range workers {
		c.holds++
		c.deliver(http.DefaultClient, fmt.Sprint("long-", c.holds), "issues", 1)
	}
	for _, w := range workers {
		w.eventually("a long handler runs at "+w.name, func() bool {
			rows := c.rows(`SELECT e.delivery_id FROM webhook_jobs j JOIN webhook_events e ON e.id = j.event_id JOIN workers w ON w.id = j.worker_id
				WHERE j.route = 'long' AND j.status = 'processing' AND w.pid = $1`, w.pid())
			if len(rows) == 0 {
				return false
			}
			held[w] = rows[0][0]
			return c.handler(held[w]) != 0
		})
	}
	return held
}

// handler is the process of a long handler; 0 if it has not begun.
func (c *cluster) handler(id string) int {
	b, err := os.ReadFile(filepath.Join(c.out, id+".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// takenOver tells whether the first claim of a long job has ended without it.
func (c *cluster) takenOver(id string) bool {
	return c.number(`SELECT count(*) FROM webhook_attempts a JOIN webhook_events e ON e.id = a.event_id
		WHERE e.delivery_id = $1 AND a.claim_seq = 1`, id) == 1
}

func (c *cluster) completed() int {
	return c.number(`SELECT count(*) FROM webhook_attempts WHERE outcome = 'completed'`)
}

// round has each worker away for longer than a lease, and each in another way.
// The receivers suffer meanwhile.
func (c *cluster) round() {
	t := c.t
	t.Helper()
	order := c.dice.Perm(3)
	cut, silent, third := c.workers[order[0]], c.workers[order[1]], c.workers[order[2]]
	c.faultsOfLinks(third)
	long := c.hold(c.workers...)

	third.daemon.kill()
	third.up()
	long[third] = c.hold(third)[third]

	begun, before := queue.Clock(), c.completed()
	cut.way.Refuse(true)
	silent.way.Hold(true)
	var receivers sync.WaitGroup
	receivers.Go(c.receiverFaults())
	third.eventually("the queue goes on", func() bool { return c.completed() >= before+20 })

	// A stopped process can't stop its handlers. What they did is told too late.
	third.signal(syscall.SIGSTOP)
	c.end(long[third])

	var stopping sync.WaitGroup
	for _, w := range []*node{cut, silent} {
		stopping.Go(func() { c.stopsInTime(w, long[w], begun) })
	}
	stopping.Wait()
	receivers.Wait()
	for _, w := range []*node{cut, silent} {
		w.eventually("the job of "+w.name+" is taken over", func() bool { return c.takenOver(long[w]) })
	}
	t.Logf("taken over after %s", queue.Clock().Sub(begun).Round(100*time.Millisecond))
	cut.way.Refuse(false)
	if c.dice.IntN(2) == 0 {
		silent.way.Cut() // else what was sent arrives now
	}
	silent.way.Hold(false)
	third.eventually("the job of "+third.name+" is taken over", func() bool { return c.takenOver(long[third]) })
	stale := third.said("stale")
	third.signal(syscall.SIGCONT)
	third.eventually("the late result is fenced", func() bool { return third.said("stale") > stale })
	t.Logf("all are back after %s", queue.Clock().Sub(begun).Round(100*time.Millisecond))
	c.workAgain()
	t.Logf("all work again after %s", queue.Clock().Sub(begun).Round(100*time.Millisecond))
}

// stopsInTime waits for the end of a handler whose worker was cut off, which must
// come before others may take the job over.
func (c *cluster) stopsInTime(w *node, id string, begun time.Time) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !gone(c.handler(id)) && queue.Clock().Sub(begun) < 2*queue.Lease {
		<-tick.C
	}
	lasted := queue.Clock().Sub(begun)
	c.t.Logf("%s stopped its handler after %s", w.name, lasted.Round(100*time.Millisecond))
	if lasted > queue.Lease {
		c.t.Errorf("the handler of %s ran for %s after it was cut off, longer than its lease of %s", w.name, lasted, queue.Lease)
	}
}

func (c *cluster) end(id string) { writeFile(c.t, filepath.Join(c.out, id+".end")) }

// faultsOfLinks makes the ways of some nodes slow, and slow to close.
func (c *cluster) faultsOfLinks(third *node) {
	for _, n := range c.all() {
		n.way.Latency(0)
		n.way.SlowClose(0)
	}
	third.way.Latency(time.Duration(1+c.dice.IntN(10)) * time.Millisecond)
	third.way.SlowClose(time.Duration(1+c.dice.IntN(3)) * time.Second) // when it is killed, its transactions stay for as long
	c.receivers[c.dice.IntN(2)].way.Latency(time.Duration(1+c.dice.IntN(5)) * time.Millisecond)
}

// receiverFaults decides now what befalls the receivers, one after the other.
func (c *cluster) receiverFaults() (run func()) {
	type fault struct {
		r       *node
		kind    int
		lasting time.Duration
	}
	var faults []fault
	for _, kind := range c.dice.Perm(4) {
		faults = append(faults, fault{c.receivers[c.dice.IntN(2)], kind, 500*time.Millisecond + time.Duration(c.dice.IntN(2000))*time.Millisecond})
	}
	return func() {
		for _, f := range faults {
			switch f.kind {
			case 0:
				f.r.daemon.kill()
				f.r.up()
				f.r.eventually("it is ready", f.r.ready) // with its database away it would end, for its supervisor to start it again
			case 1:
				f.r.way.Refuse(true)
				<-time.After(f.lasting)
				f.r.way.Refuse(false)
			case 2:
				f.r.way.Hold(true)
				<-time.After(f.lasting)
				f.r.way.Hold(false)
			case 3:
				f.r.way.Cut()
			}
			<-time.After(f.lasting / 2)
		}
	}
}

// workAgain waits until every node does again what it is for, without a restart.
func (c *cluster) workAgain() {
	c.t.Helper()
	since := c.number(`SELECT coalesce(max(event_id), 0) FROM webhook_attempts`)
	for _, w := range c.workers {
		w.eventually(w.name+" works again", func() bool {
			return c.number(`SELECT count(*) FROM webhook_attempts WHERE outcome = 'completed' AND event_id > $1
				AND split_part(worker_id, ':', 2) = $2`, since, strconv.Itoa(w.pid())) > 0
		})
	}
	for _, r := range c.receivers {
		r.eventually(r.name+" is ready again", r.ready)
	}
}

// check compares the database, the ledger and what the handlers wrote.
func (c *cluster) check() {
	t := c.t
	t.Helper()
	stored := map[string]bool{}
	for _, row := range c.rows(`SELECT e.delivery_id, e.body_sha256, encode(sha256(p.body), 'hex'), e.id, e.status
			FROM webhook_events e JOIN webhook_payloads p ON p.event_id = e.id`) {
		id := row[0]
		if stored[id] {
			t.Errorf("%s is stored twice", id)
		}
		stored[id] = true
		if want := c.acked[id]; row[1] != want || row[2] != want || row[3] != fmt.Sprint(c.ids.acked[id]) {
			t.Errorf("%s is stored as event %s with digest %s, body %s; acknowledged was event %d with %s", id, row[3], row[1], row[2], c.ids.acked[id], want)
		}
		if row[4] != "completed" {
			t.Errorf("event %s (%s) is %s", row[3], id, row[4])
		}
	}
	for id := range c.acked {
		if !stored[id] {
			t.Errorf("%s was acknowledged, and is lost", id)
		}
	}
	for what, query := range map[string]string{
		"counters that differ from their jobs": `SELECT e.id, e.n_pending, e.n_processing, e.n_failed, e.n_dead FROM webhook_events e
			JOIN (SELECT event_id, count(*) FILTER (WHERE status = 'pending') AS p, count(*) FILTER (WHERE status = 'processing') AS r,
				count(*) FILTER (WHERE status = 'failed') AS f, count(*) FILTER (WHERE status = 'dead_letter') AS d
				FROM webhook_jobs GROUP BY event_id) j ON j.event_id = e.id
			WHERE (e.n_pending, e.n_processing, e.n_failed, e.n_dead) IS DISTINCT FROM (j.p, j.r, j.f, j.d)`,
		"jobs that are not completed": `SELECT event_id, route, status, error_message FROM webhook_jobs WHERE status <> 'completed'`,
		"events without their job": `SELECT e.id, e.delivery_id FROM webhook_events e
			WHERE (SELECT count(*) FROM webhook_jobs j WHERE j.event_id = e.id) <> 1`,
		"claims without exactly one attempt": `SELECT j.event_id, j.route, j.claim_seq, count(a) FROM webhook_jobs j
			LEFT JOIN webhook_attempts a ON a.event_id = j.event_id AND a.route = j.route
			GROUP BY j.event_id, j.route, j.claim_seq HAVING count(a) <> j.claim_seq`,
		"jobs that completed more than once": `SELECT event_id, route, count(*) FROM webhook_attempts WHERE outcome = 'completed'
			GROUP BY event_id, route HAVING count(*) <> 1`,
	} {
		if rows := c.rows(query); len(rows) > 0 {
			t.Errorf("%d %s, such as %v", len(rows), what, rows[0])
		}
	}
	c.checkHandlers()
}

func (c *cluster) checkHandlers() {
	t := c.t
	t.Helper()
	f, err := os.Open(filepath.Join(c.out, "done"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	ran := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		ran[lines.Text()]++
	}
	again := 0
	for id := range c.acked {
		route, _, _ := strings.Cut(id, "-")
		n := ran["github/"+id+"/"+route]
		if n == 0 {
			t.Errorf("%s is completed, but its handler never came to its end", id)
		}
		again += max(0, n-1)
	}
	t.Logf("%d deliveries, %d handlers ended for a claim that was gone", len(c.acked), again)
	overlaps, err := os.ReadFile(filepath.Join(c.out, "overlaps"))
	if err == nil {
		t.Errorf("two handlers of one job at once:\n%s", overlaps)
	}
}

// stopAll drains every node, each by one signal.
func (c *cluster) stopAll() {
	c.t.Helper()
	for _, n := range c.all() {
		if code := n.daemon.stop(syscall.SIGTERM); code != 0 {
			c.t.Errorf("%s ended with %d\n%s", n.name, code, n.errors())
		}
	}
	if rows := c.rows(`SELECT id FROM workers`); len(rows) > 0 {
		c.t.Errorf("workers are left after all have ended: %v", rows)
	}
}

// TestNodes runs two receivers and three workers on one PostgreSQL, each by a way
// of its own, and has them killed, cut off, stopped and slowed. NODES_ROUNDS and
// NODES_SEED choose more, and others.
func TestNodes(t *testing.T) {
	t.Parallel()
	newCluster(t, pgtest.Private(t, pgtest.Durable), seed(t), func(*node, string) {}).suffer()
}

func seed(t *testing.T) uint64 { return uint64(fromEnvironment(t, "NODES_SEED", 1)) }

// suffer runs the rounds under load.
func (c *cluster) suffer() {
	t := c.t
	t.Helper()
	defer c.tell()
	stop := c.load()
	for range fromEnvironment(t, "NODES_ROUNDS", 1) {
		if c.round(); t.Failed() {
			break
		}
	}
	stop()
	c.receivers[0].eventually("everything has ended", c.receivers[0].settled)
	c.check()
	c.stopAll()
}

// tell shows what the nodes said, where something is wrong.
func (c *cluster) tell() {
	for _, n := range c.all() {
		if c.t.Failed() {
			c.t.Logf("%s said at last:\n%s", n.name, n.errors())
		}
	}
}

func fromEnvironment(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
