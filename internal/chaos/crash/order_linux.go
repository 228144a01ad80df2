package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"orchestrate/internal/chaos"
)

// order shows by the system calls of the server that a 200 comes after an fsync
// of the WAL that began after the last byte of its request was read; and that the
// same eyes see it when a server answers before the commit.
func (h *harness) order(ctx context.Context) error {
	if _, err := exec.LookPath("strace"); err != nil {
		return errMissing{"strace is needed: install it (Debian, Ubuntu: apt-get install strace)"}
	}
	seen, early, err := h.trace(ctx, "order", h.bin, nil, func(s *chaos.Sender) {
		sending, stop := context.WithTimeout(ctx, 4*time.Second)
		defer stop()
		s.Run(sending, chaos.Load{
			Seed: h.seed, Name: "order", Senders: 6, Burst: 20, Pause: 50 * time.Millisecond, MaxBody: 60_000, Events: []string{"push", "ping"},
		})
	})
	if err != nil {
		return err
	}
	h.say("%d answers of 200, %d of them without an fsync of the WAL between the last byte read and the first sent", seen, early)
	bin, err := h.breakIt(ctx)
	if err != nil {
		return err
	}
	brokenSeen, brokenEarly, err := h.trace(ctx, "order-broken", bin, []string{chaos.MutantVariable + "=ack_before_commit"}, func(s *chaos.Sender) {
		for n := range 6 { // one at a time: the sync of another would cover it, as that of a new log's header does
			s.Post(ctx, chaos.Delivery{ID: fmt.Sprint("broken-", n), Event: "push", Body: []byte("{}")})
			chaos.Pause(ctx, 2500*time.Millisecond)
		}
	})
	if err != nil {
		return err
	}
	h.say("a server that answers before the commit: %d answers, %d without", brokenSeen, brokenEarly)
	switch {
	case early > 0 || seen == 0:
		return fmt.Errorf("%d of %d answers came before the fsync", early, seen)
	case brokenEarly == 0:
		return errors.New("a server that answers before the commit was not found out")
	}
	return nil
}

// trace has deliveries sent to a server that is traced.
func (h *harness) trace(ctx context.Context, name, bin string, env []string, send func(*chaos.Sender)) (seen, early int, err error) {
	s, err := h.site(name, bin, "")
	if err != nil {
		return 0, 0, err
	}
	s.Env = env
	log := filepath.Join(s.Dir, "calls")
	s.Within = []string{"strace", "-D", "-f", "-yy", "-s", "16", "-e", "trace=read,write,fsync,fdatasync", "-e", "signal=none", "-o", log}
	defer func() { err = errors.Join(err, s.Close()) }()
	n, err := s.Start("serve", "serve", "--no-process")
	if err != nil {
		return 0, 0, err
	}
	if _, err := s.AwaitReady(ctx, n, time.Minute); err != nil {
		return 0, 0, err
	}
	sender := chaos.NewSender(chaos.NewLedger(), s.Listen)
	send(sender)
	sender.Close()
	if _, err := n.Stop(20 * time.Second); err != nil {
		return 0, 0, err
	}
	end := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ exited`, n.PID()))
	for range 500 { // strace writes on until it has seen the end
		text, err := os.ReadFile(log) //nolint:gosec // our own
		if err != nil {
			return 0, 0, err
		}
		if end.Match(text) {
			return judgeOrder(bytes.NewReader(text))
		}
		chaos.Pause(ctx, 20*time.Millisecond)
	}
	return 0, 0, errors.New("strace has not seen the end of the server")
}

// line is one of strace -f -yy: a process, then a whole call, or its beginning,
// or its end.
var line = regexp.MustCompile(`^(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\(\d+<((?:->|[^>])*)>)(.*)$`)

// judgeOrder reads the calls in their order and counts the answers of 200, and
// those that no fsync of a WAL covers.
func judgeOrder(r io.Reader) (seen, early int, err error) {
	type call struct {
		file  string
		begun int
	}
	open := map[string]call{} // by process: what has begun
	read := map[string]int{}  // by connection: when its last bytes came
	posted := map[string]bool{}
	type span struct{ from, to int }
	var syncs []span
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for at := 1; lines.Scan(); at++ {
		m := line.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name, c := m[3], call{m[4], at}
		if name == "" {
			name, c = m[2], open[m[1]]
		}
		if strings.HasSuffix(m[5], "<unfinished ...>") {
			open[m[1]] = c
		}
		done := !strings.HasSuffix(m[5], "<unfinished ...>")
		switch {
		case (name == "fsync" || name == "fdatasync") && done && strings.HasSuffix(c.file, "-wal") && strings.HasSuffix(m[5], "= 0"):
			syncs = append(syncs, span{c.begun, at})
		case name == "read" && done && strings.HasPrefix(c.file, "TCP:") && !strings.Contains(m[5], "= -1") && !strings.HasSuffix(m[5], "= 0"):
			read[c.file] = at
			posted[c.file] = posted[c.file] || strings.Contains(m[5], `"POST `)
		case name == "write" && m[3] != "" && posted[c.file] && strings.Contains(m[5], `"HTTP/1.1 200 `):
			seen++
			covered := false
			for i := len(syncs) - 1; i >= 0 && !covered && syncs[i].to > read[c.file]; i-- {
				covered = syncs[i].from > read[c.file]
			}
			if !covered {
				early++
			}
		}
	}
	return seen, early, lines.Err()
}
