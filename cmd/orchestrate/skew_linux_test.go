package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
)

// TestSkewedClocks: an hour of difference between the clocks of nodes loses no
// lease, starts nothing early or late, and shows nobody a wrong time. This
// machine's clock is the server's.
func TestSkewedClocks(t *testing.T) {
	t.Parallel()
	bin, err := chaos.BuildBroken(t.Context(), t.TempDir(), "skewed", chaos.SettableClock)
	if err != nil {
		t.Fatal(err)
	}
	skews := map[string]string{"receiver 0": "1h", "receiver 1": "-1h", "worker 0": "1h", "worker 1": "-1h"}
	begun := queue.Now()
	c := newCluster(t, pgtest.Private(t, pgtest.Durable), 1, func(n *node, _ string) {
		n.bin = bin
		n.env = []string{chaos.SkewVariable + "=" + skews[n.name]}
	})
	defer c.tell()
	const flaky = 12
	long := c.hold(c.workers...)
	before := c.workerIDs()
	leased := time.After(queue.Lease + 5*time.Second) // with a beat more, after which a rescuer would come
	for i := range flaky {
		c.deliver(http.DefaultClient, fmt.Sprint("flaky-", i), "watch", 1)
	}
	stop := c.load()
	<-leased
	stop()
	for _, id := range long {
		c.end(id)
	}
	c.receivers[0].eventually("everything has ended", c.receivers[0].settled)

	if after := c.workerIDs(); !slices.Equal(before, after) {
		t.Errorf("the workers were %v, and are %v", before, after)
	}
	if rows := c.rows(`SELECT event_id, route, outcome FROM webhook_attempts WHERE outcome NOT IN ('completed', 'failed')`); len(rows) > 0 {
		t.Errorf("%d attempts ended otherwise, such as %v", len(rows), rows[0])
	}
	c.check()
	c.checkRetries(flaky)
	if n := c.number(`SELECT count(DISTINCT worker_id) FROM webhook_attempts WHERE route = 'flaky'`); n < 2 {
		t.Errorf("%d worker took all that was to be retried, want several", n)
	}
	c.checkTimes(begun)
	for _, n := range c.all() {
		c.checkAges(n)
	}
	c.stopAll()
}

func (c *cluster) workerIDs() []string {
	c.t.Helper()
	var ids []string
	for _, row := range c.rows(`SELECT id FROM workers ORDER BY id`) {
		ids = append(ids, row[0])
	}
	return ids
}

// checkRetries: 1, 2 and 4 s lie between the attempts, by the clock that the
// handlers see, and not much more.
func (c *cluster) checkRetries(want int) {
	t := c.t
	t.Helper()
	f, err := os.Open(filepath.Join(c.out, "times"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	began := map[string]map[int]queue.Time{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var id string
		var attempt int
		var at queue.Time
		if _, err := fmt.Sscan(lines.Text(), &id, &attempt, &at); err != nil {
			t.Fatal(err)
		}
		if began[id] == nil {
			began[id] = map[int]queue.Time{}
		}
		began[id][attempt] = at
	}
	if len(began) != want {
		t.Errorf("%d flaky jobs ran, want %d", len(began), want)
	}
	const late = 30 * time.Second // a busy machine's
	for id, at := range began {
		for n, wait := range map[int]time.Duration{2: time.Second, 3: 2 * time.Second, 4: 4 * time.Second} {
			if got := at[n].Sub(at[n-1]); got < wait || got > wait+late {
				t.Errorf("%s: attempt %d began %s after the one before, want %s", id, n, got, wait)
			}
		}
	}
}

// checkTimes: what is stored was told by one clock.
func (c *cluster) checkTimes(begun queue.Time) {
	c.t.Helper()
	for what, query := range map[string]string{
		"events received":   `SELECT count(*) FROM webhook_events WHERE received_at NOT BETWEEN $1 AND $2`,
		"attempts started":  `SELECT count(*) FROM webhook_attempts WHERE started_at NOT BETWEEN $1 AND $2`,
		"attempts finished": `SELECT count(*) FROM webhook_attempts WHERE finished_at NOT BETWEEN $1 AND $2 OR finished_at < started_at`,
		"workers' beats":    `SELECT count(*) FROM workers WHERE heartbeat_at NOT BETWEEN $1 AND $2`,
	} {
		if n := c.number(query, int64(begun), int64(queue.Now().Add(time.Second))); n > 0 {
			c.t.Errorf("%d %s at a time that is not the server's", n, what)
		}
	}
}

// checkAges: a node shows how old things are by the server's clock, and takes
// what is asked for by it.
func (c *cluster) checkAges(n *node) {
	c.t.Helper()
	for line := range strings.Lines(string(n.run("events", "list", "--no-headers", "--time", "relative", "--limit", "5"))) {
		age, err := time.ParseDuration(strings.Fields(line)[6])
		if err != nil || age < 0 || age > 10*time.Minute {
			c.t.Errorf("%s shows an age of %s (%v) in %s", n.name, age, err, line)
		}
	}
	if got := len(n.list("--since", "30m")); got != len(c.acked) {
		c.t.Errorf("%s lists %d events of the last half hour, want %d", n.name, got, len(c.acked))
	}
	if got := len(n.list("--until", "30m")); got != 0 {
		c.t.Errorf("%s lists %d events from before, want none", n.name, got)
	}
	if status := string(n.run("status", "-o", "json")); strings.Contains(status, `"silent": true`) || !strings.Contains(status, `"silent": false`) {
		c.t.Errorf("%s takes a worker for dead: %s", n.name, status)
	}
	for _, row := range c.rows(`SELECT count(*) FROM webhook_events`) {
		if want := strconv.Itoa(len(c.acked)); row[0] != want {
			c.t.Errorf("%s events are stored, want %s", row[0], want)
		}
	}
}
