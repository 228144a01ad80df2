package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"orchestrate/internal/chaos/disk/faultfs"
	"orchestrate/internal/queue"
)

const (
	unavailable = 6 // the exit codes
	damaged     = 8
	noSync      = "the disk failed to sync"
	wal, db     = "q.db-wal", "q.db"
)

func scenarios() []scenario {
	return []scenario{
		{"fsync of the WAL once", syncFails(wal, 1)},
		{"fsync of the WAL forever", syncFails(wal, faultfs.Always)},
		{"fsync of the database once", syncFails(db, 1)},
		{"fsync of the database forever", syncFails(db, faultfs.Always)},
		{"fsync of a first start", firstStart},
		{"fsync of commands", commandFails},
		{"reads fail", readFails},
		{"writes fail", writeFails},
		{"full", full},
		{"read-only", readOnly},
		{"fsyncs of 50 ms", slow(50*time.Millisecond, 6*time.Second)},
		{"fsyncs of 500 ms", slow(500*time.Millisecond, 25*time.Second)},
		{"64 descriptors", descriptors},
	}
}

// syncFails: nothing is acknowledged any more, every process ends, also the one
// that the kernel tells nothing, and none begins before the disk is well. What
// is redelivered then is there after a loss of power, whatever that keeps.
func syncFails(file string, times int) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		serve, err := l.start(ctx, "serve", "serve")
		if err != nil {
			return err
		}
		process, err := l.start(ctx, "process", "process")
		if err != nil {
			return err
		}
		for range 20 {
			if status, _ := l.post(ctx, 2000); status != http.StatusOK {
				return fmt.Errorf("a delivery before the fault was answered %d", status)
			}
		}
		l.disk.Inject(faultfs.Faults{Fsync: faultfs.Failure{Errno: syscall.EIO, Times: times}, Only: file})
		if err := l.untilBroken(ctx); err != nil {
			return err
		}
		if ready := l.ready(ctx); ready == http.StatusOK {
			return errors.New("/readyz is 200 after the fault")
		}
		if err := errors.Join(l.ends(serve, 20*time.Second, unavailable, noSync), l.ends(process, 20*time.Second, unavailable, noSync)); err != nil {
			return err
		}
		if times == faultfs.Always {
			l.disk.Inject(faultfs.Faults{Fsync: faultfs.Failure{Errno: syscall.EIO, Times: times}}) // of all files: a restart syncs one by one
			again, err := l.site.Start("again", "serve")
			if err != nil {
				return err
			}
			if err := l.ends(again, 20*time.Second, unavailable, noSync); err != nil {
				return err
			}
			l.disk.Inject(faultfs.Faults{})
		}
		return l.survives(ctx)
	}
}

// untilBroken sends until nothing is acknowledged; a database's file is synced
// only once the WAL is long.
func (l *lab) untilBroken(ctx context.Context) error {
	for range 60 {
		if status, _ := l.post(ctx, 400_000); status != http.StatusOK {
			for range 20 { // from then on nothing is
				if status, _ := l.post(ctx, 100); status == http.StatusOK {
					return errors.New("a delivery was acknowledged after the fault")
				}
			}
			return nil
		}
	}
	return errors.New("the fault was not noticed: 60 deliveries were acknowledged")
}

// survives restarts, has everything redelivered, cuts the power at once, and looks.
func (l *lab) survives(ctx context.Context) error {
	for i := range uint64(3) {
		if _, err := l.start(ctx, fmt.Sprintf("serve-%d", i), "serve"); err != nil {
			return err
		}
		if err := l.redeliver(ctx); err != nil {
			return err
		}
		if err := l.powerLoss(i * l.seed); err != nil { // the first keeps nothing
			return err
		}
	}
	if _, err := l.start(ctx, "last", "serve"); err != nil {
		return err
	}
	return l.check(ctx)
}

// readFails: who can't read says so, changes nothing, and can the next time.
func readFails(ctx context.Context, l *lab) error {
	if err := l.taken(ctx, 20); err != nil {
		return err
	}
	l.disk.Inject(faultfs.Faults{Read: faultfs.Failure{Errno: syscall.EIO, Times: faultfs.Always}, Only: db})
	for _, args := range [][]string{{"events", "list"}, {"process", "--once"}, {"cleanup", "--older-than", "0s"}, {"serve"}} {
		code, out, err := l.command(ctx, args...)
		if err != nil || code != unavailable && code != damaged {
			return fmt.Errorf("%v ended with %d, %w, when the database can't be read: %s", args, code, err, out)
		}
		l.tell("%s ended with %d", args[0], code)
	}
	l.disk.Inject(faultfs.Faults{})
	if code, out, err := l.command(ctx, "events", "list"); err != nil || code != 0 {
		return fmt.Errorf("events list ended with %d, %w: %s", code, err, out)
	}
	return l.survives(ctx)
}

// writeFails: what can't be written is not acknowledged, and who goes on takes
// what comes then.
func writeFails(ctx context.Context, l *lab) error {
	if err := l.taken(ctx, 20); err != nil {
		return err
	}
	serve, err := l.start(ctx, "more", "serve", "--no-process")
	if err != nil {
		return err
	}
	l.disk.Inject(faultfs.Faults{Write: faultfs.Failure{Errno: syscall.EIO, Times: 3}, Only: wal})
	statuses := map[int]int{}
	for range 20 {
		status, _ := l.post(ctx, 2000)
		statuses[status]++
	}
	l.tell("answers %v", statuses)
	if statuses[http.StatusOK] == 0 || statuses[http.StatusServiceUnavailable] == 0 || len(statuses) != 2 {
		return fmt.Errorf("answers %v, want 503 and then 200", statuses)
	}
	if err := serve.Kill(); err != nil {
		return err
	}
	return l.survives(ctx)
}

// taken has so many deliveries acknowledged by a server that is killed then.
func (l *lab) taken(ctx context.Context, n int) error {
	serve, err := l.start(ctx, "serve", "serve", "--no-process")
	if err != nil {
		return err
	}
	for range n {
		if status, _ := l.post(ctx, 2000); status != http.StatusOK {
			return fmt.Errorf("a delivery before the fault was answered %d", status)
		}
	}
	return serve.Kill()
}

// firstStart fails each of the fsyncs that make a database, one after the other.
// Either it says so and ends, or it did not matter: SQLite keeps it to itself when
// a directory can't be synced, and then somebody else must have done it.
func firstStart(ctx context.Context, l *lab) error {
	for k, ended := 0, 0; ; k += l.step {
		l.fresh(fmt.Sprintf("state-%d", k))
		l.disk.Inject(faultfs.Faults{Fsync: faultfs.Failure{Errno: syscall.EIO, Times: 1}, FsyncAfter: k})
		first, err := l.site.Start(fmt.Sprintf("first-%d", k), "serve", "--no-process")
		if err != nil {
			return err
		}
		if _, err := l.site.AwaitReady(ctx, first, 20*time.Second); err != nil {
			if err := l.ends(first, time.Second, unavailable, noSync); err != nil {
				return fmt.Errorf("fsync %d: %w", k+1, err)
			}
			ended++
			if _, err := l.start(ctx, fmt.Sprintf("second-%d", k), "serve", "--no-process"); err != nil {
				return fmt.Errorf("restart after fsync %d failed: %w", k+1, err)
			}
		}
		missed := l.disk.Injected().Fsync.Times > 0
		l.disk.Inject(faultfs.Faults{})
		if status, _ := l.post(ctx, 100); status != http.StatusOK {
			return fmt.Errorf("fsync %d: a delivery was answered %d", k+1, status)
		}
		if err := errors.Join(l.powerLoss(0), l.check(ctx)); err != nil {
			return fmt.Errorf("fsync %d: %w", k+1, err)
		}
		l.told = nil
		if missed {
			l.tell("%d fsyncs, every %d. failed, %d ended it, 0 lost", k, l.step, ended)
			return nil
		}
	}
}

// commandFails: a command tells; the next one, though it only reads, first makes
// the database whole.
func commandFails(ctx context.Context, l *lab) error {
	for i, args := range [][]string{{"events", "retry", "1", "--force"}, {"events", "cancel", "--all", "--yes"}, {"cleanup", "--older-than", "0s"}} {
		serve, err := l.start(ctx, fmt.Sprint("serve-", i), "serve")
		if err != nil {
			return err
		}
		for range 5 {
			if status, _ := l.post(ctx, 2000); status != http.StatusOK {
				return fmt.Errorf("a delivery was answered %d", status)
			}
		}
		if _, err := await(ctx, "the first job has ended", 20*time.Second, func() bool {
			_, out, _ := l.command(ctx, "events", "list", "--all", "--status", "completed", "-o", "name")
			return out != ""
		}); err != nil {
			return err
		}
		if err := serve.Kill(); err != nil { // it leaves a WAL
			return err
		}
		l.disk.Inject(faultfs.Faults{Fsync: faultfs.Failure{Errno: syscall.EIO, Times: 1}, Only: wal})
		code, out, err := l.command(ctx, args...)
		if err != nil || code != unavailable || !strings.Contains(out, noSync) {
			return fmt.Errorf("%v ended with %d, %w: %s", args, code, err, out)
		}
		if code, out, err := l.command(ctx, "status"); err != nil || code != 0 {
			return fmt.Errorf("status ended with %d, %w: %s", code, err, out)
		}
		if err := l.powerLoss(l.seed + uint64(i)); err != nil {
			return err
		}
		if err := l.check(ctx, 1, 2); err != nil {
			return fmt.Errorf("%v: %w", args, err)
		}
	}
	return nil
}

// full: while there is no room, 503 and not ready; a second after there is, 200
// and ready. A cleanup makes room itself.
func full(ctx context.Context, l *lab) error {
	if _, err := l.start(ctx, "serve", "serve"); err != nil {
		return err
	}
	if _, err := l.start(ctx, "process", "process"); err != nil {
		return err
	}
	l.disk.Inject(faultfs.Faults{Quota: l.disk.Used() + 24<<20})
	if err := l.fill(ctx); err != nil {
		return err
	}
	l.disk.Inject(faultfs.Faults{Quota: l.disk.Used() + 8<<20})
	took, err := await(ctx, "a delivery is taken after room was made", time.Second, func() bool {
		status, _ := l.post(ctx, 1000)
		return status == http.StatusOK
	})
	if err != nil {
		return err
	}
	l.tell("200 again after %d ms", took.Milliseconds())
	if _, err := await(ctx, "/readyz is 200 after room was made", time.Second, func() bool { return l.ready(ctx) == http.StatusOK }); err != nil {
		return err
	}
	if _, err := await(ctx, "all jobs have run", 30*time.Second, func() bool {
		code, out, err := l.command(ctx, "events", "list", "--all", "--status", "pending", "-o", "name")
		return err == nil && code == 0 && out == ""
	}); err != nil {
		return err
	}
	if err := l.fill(ctx); err != nil {
		return err
	}
	before := l.disk.Used()
	stop := l.keepSending(ctx)
	code, out, err := l.command(ctx, "cleanup", "--older-than", "0s")
	answers := stop()
	if err != nil || code != 0 {
		return fmt.Errorf("cleanup on the full disk, beside answers %v, ended with %d, %w: %s", answers, code, err, out)
	}
	if info, err := os.Stat(l.site.Database + ".reserve"); err != nil || info.Size() < 16<<20 {
		return fmt.Errorf("after the cleanup, beside answers %v, the reserve is %v, %w", answers, info, err)
	}
	l.tell("senders meanwhile: %v", answers)
	l.tell("cleanup on a full disk: %s", strings.TrimSpace(out))
	l.tell("used %d MB, then %d MB", before>>20, l.disk.Used()>>20)
	if _, err := await(ctx, "a delivery is taken after the cleanup", time.Second, func() bool {
		status, _ := l.post(ctx, 1000)
		return status == http.StatusOK
	}); err != nil {
		return err
	}
	return l.check(ctx)
}

// keepSending has senders at work until it is stopped, and counts what they are
// answered.
func (l *lab) keepSending(ctx context.Context) (stop func() map[int]int) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				d := l.next(200_000)
				mu.Unlock()
				status := l.sender.Post(context.WithoutCancel(ctx), d)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	return func() map[int]int {
		cancel()
		wg.Wait()
		return statuses
	}
}

// fill sends until there is no room for a small one either.
func (l *lab) fill(ctx context.Context) error {
	for refused, n := 0, 0; refused < 10; n++ {
		status, _ := l.post(ctx, map[bool]int{true: 300_000, false: 100}[refused == 0])
		switch {
		case status == http.StatusServiceUnavailable:
			refused++
		case status != http.StatusOK:
			return fmt.Errorf("a delivery was answered %d", status)
		case n > 500:
			return errors.New("the disk does not become full")
		default:
			refused = 0
		}
	}
	took, err := await(ctx, "/readyz is 503 on a full disk", 7*time.Second, func() bool { return l.ready(ctx) == http.StatusServiceUnavailable })
	l.tell("unready %.1f s after the first 503s", took.Seconds())
	return err
}

// readOnly: the same while nothing may be written; who starts then says so.
func readOnly(ctx context.Context, l *lab) error {
	serve, err := l.start(ctx, "serve", "serve")
	if err != nil {
		return err
	}
	if status, _ := l.post(ctx, 1000); status != http.StatusOK {
		return fmt.Errorf("a delivery was answered %d", status)
	}
	l.disk.Inject(faultfs.Faults{ReadOnly: true})
	for range 5 {
		if status, _ := l.post(ctx, 1000); status != http.StatusServiceUnavailable {
			return fmt.Errorf("a delivery on the read-only disk was answered %d", status)
		}
	}
	if ready := l.ready(ctx); ready != http.StatusServiceUnavailable {
		return fmt.Errorf("/readyz is %d on the read-only disk", ready)
	}
	l.disk.Inject(faultfs.Faults{})
	if _, err := await(ctx, "a delivery is taken again", time.Second, func() bool {
		status, _ := l.post(ctx, 1000)
		return status == http.StatusOK
	}); err != nil {
		return err
	}
	if ready := l.ready(ctx); ready != http.StatusOK {
		return fmt.Errorf("/readyz is %d when the disk can be written again", ready)
	}
	if _, err := serve.Stop(10 * time.Second); err != nil {
		return err
	}
	l.disk.Inject(faultfs.Faults{ReadOnly: true})
	start, err := l.site.Start("start", "serve")
	if err != nil {
		return err
	}
	if err := l.ends(start, 20*time.Second, unavailable, "read-only file system"); err != nil {
		return err
	}
	l.disk.Inject(faultfs.Faults{})
	return l.check(ctx)
}

// slow: everybody gets their turn at the write lock.
func slow(delay, load time.Duration) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		serve, err := l.start(ctx, "serve", "serve")
		if err != nil {
			return err
		}
		l.disk.Inject(faultfs.Faults{FsyncDelay: delay})
		for _, name := range []string{"one", "two"} {
			if _, err := l.start(ctx, name, "process"); err != nil {
				return err
			}
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var bad []string
		statuses, slowest, ran := map[int]int{}, time.Duration(0), 0
		loading, stop := context.WithTimeout(ctx, load/time.Duration((l.step+1)/2))
		defer stop()
		for range 4 {
			wg.Go(func() {
				for loading.Err() == nil {
					mu.Lock()
					d := l.next(1000)
					mu.Unlock()
					begun := queue.Clock()
					status := l.sender.Post(ctx, d)
					took := queue.Clock().Sub(begun)
					mu.Lock()
					statuses[status]++
					slowest = max(slowest, took)
					mu.Unlock()
				}
			})
		}
		commands := [][]string{{"events", "list"}, {"status"}, {"events", "requeue-dead", "--all", "--yes"}, {"cleanup", "--older-than", "1h"}, {"process", "--once", "--limit", "1"}}
		wg.Go(func() {
			for i := 0; loading.Err() == nil; i++ {
				code, out, err := l.command(ctx, commands[i%len(commands)]...)
				mu.Lock()
				if ran++; err != nil || code == unavailable || strings.Contains(out, "locked") || strings.Contains(out, "busy") {
					bad = append(bad, fmt.Sprintf("%v ended with %d, %v: %s", commands[i%len(commands)], code, err, out))
				}
				mu.Unlock()
			}
		})
		wg.Wait()
		l.tell("answers %v, the slowest after %.1f s, %d commands", statuses, slowest.Seconds(), ran)
		for status := range statuses {
			if status != http.StatusOK && status != http.StatusServiceUnavailable {
				bad = append(bad, fmt.Sprintf("%d answers were %d", statuses[status], status))
			}
		}
		if statuses[http.StatusOK] == 0 {
			bad = append(bad, "no delivery was taken")
		}
		if slowest > 8*time.Second {
			bad = append(bad, fmt.Sprintf("an answer took %s", slowest))
		}
		for _, name := range []string{"serve", "one", "two"} {
			text, err := os.ReadFile(l.dir + "/" + name + ".log") //nolint:gosec // G304: a log of ours
			if err != nil {
				return err
			}
			for _, word := range []string{"locked", "lease", "rescued", "stale", "panic", "handlers stopped"} {
				if at := strings.Index(string(text), word); at >= 0 {
					bad = append(bad, fmt.Sprintf("%s logs %.300s", name, text[max(0, at-200):]))
				}
			}
		}
		l.disk.Inject(faultfs.Faults{})
		if _, err := serve.Stop(15 * time.Second); err != nil {
			return err
		}
		if len(bad) > 0 {
			return fmt.Errorf("%d times, as: %s", len(bad), bad[0])
		}
		return l.check(ctx)
	}
}

// descriptors: connections that only wait leave the database and the handlers
// theirs, and what does not get one comes later.
func descriptors(ctx context.Context, l *lab) error {
	serve, err := l.start(ctx, "serve", "serve", "--concurrency", "2")
	if err != nil {
		return err
	}
	if err := limitFiles(serve.PID(), 64); err != nil {
		return err
	}
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			_ = c.Close()
		}
	}()
	for range 200 {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", l.site.Listen)
		if err != nil {
			break // the backlog is full
		}
		idle = append(idle, c)
	}
	statuses := map[int]int{}
	for range 5 {
		status, _ := l.post(ctx, 1000)
		statuses[status]++
	}
	l.tell("%d connections, answers %v", len(idle), statuses)
	// The first get no connection, until those that only wait are closed.
	if statuses[http.StatusOK] == 0 || statuses[http.StatusOK]+statuses[http.StatusServiceUnavailable]+statuses[0] != 5 {
		return fmt.Errorf("answers %v, want 200 in the end, and 503 or none before", statuses)
	}
	for _, c := range idle {
		_ = c.Close()
	}
	idle = nil
	took, err := await(ctx, "a delivery is taken once the connections are gone", 10*time.Second, func() bool {
		status, _ := l.post(ctx, 1000)
		return status == http.StatusOK
	})
	if err != nil {
		return err
	}
	l.tell("200 again after %d ms", took.Milliseconds())
	if _, err := await(ctx, "all jobs end", 30*time.Second, func() bool {
		_, out, _ := l.command(ctx, "events", "list", "--all", "--status", "pending", "-o", "name")
		_, failed, _ := l.command(ctx, "events", "list", "--all", "--status", "failed", "-o", "name")
		return out == "" && failed == ""
	}); err != nil {
		return err
	}
	return l.check(ctx)
}
