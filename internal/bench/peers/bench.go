package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orchestrate/internal/store/pgtest"

	"github.com/jackc/pgx/v5"
)

// bench has the server that all share, and a directory for SQLite.
type bench struct {
	sizes
	server *pgtest.Server
	dir    string
	admin  *pgx.Conn
	made   int
}

func newBench(ctx context.Context, s sizes) (b *bench, err error) {
	b = &bench{sizes: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "peers-"); err != nil {
		return nil, err
	}
	if b.server, err = pgtest.Start(s.settings); err != nil {
		return nil, err
	}
	b.admin, err = pgx.Connect(ctx, b.server.URL("postgres"))
	return b, err
}

func (b *bench) close() (err error) {
	if b.admin != nil {
		err = b.admin.Close(context.Background())
	}
	if b.server != nil {
		err = errors.Join(err, b.server.Remove())
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

func (b *bench) machine(ctx context.Context) map[string]string {
	m := map[string]string{
		"go": runtime.Version(), "os": runtime.GOOS + "/" + runtime.GOARCH, "cpus": fmt.Sprint(runtime.NumCPU()), "river": riverVersion(),
	}
	for _, name := range []string{"server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_sync_method"} {
		var value string
		if err := b.admin.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err == nil {
			m[name] = value
		}
	}
	return m
}

// database makes an empty one and returns its URL.
func (b *bench) database(ctx context.Context) (string, error) {
	b.made++
	name := fmt.Sprintf("b%d", b.made)
	_, err := b.admin.Exec(ctx, "CREATE DATABASE "+name)
	return b.server.URL(name), err
}

// quiet lets each run begin alike: after a checkpoint the first write to a page
// logs all of it.
func (b *bench) quiet(ctx context.Context) error {
	runtime.GC()
	_, err := b.admin.Exec(ctx, "CHECKPOINT")
	return err
}

// contender is a queue that is measured. Its database is made once, and grows.
type contender interface {
	name() string
	url() string // of its database, or the file
	// insert stores one event that starts one job. Safe for concurrent use.
	insert(ctx context.Context, body []byte) error
	// work runs jobs until n are settled, and tells when that was.
	work(ctx context.Context, n int) (time.Time, error)
	close() error
}

const (
	nameSQLite   = "orchestrate, SQLite"
	namePostgres = "orchestrate, PostgreSQL"
	nameRiver    = "River"
	nameRiverHot = "River, tuned"
)

// contenders makes all of them anew.
func (b *bench) contenders(ctx context.Context) (cs []contender, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(cs))
		}
	}()
	path := filepath.Join(b.dir, fmt.Sprintf("%d.db", b.made))
	for _, name := range []string{nameSQLite, namePostgres, nameRiver, nameRiverHot} {
		database := path
		if name != nameSQLite {
			if database, err = b.database(ctx); err != nil {
				return cs, err
			}
		}
		var c contender
		switch name {
		case nameSQLite, namePostgres:
			c, err = newOurs(ctx, name, database, b.slots)
		default:
			c, err = newRiver(ctx, name, database, b.slots)
		}
		if err != nil {
			return cs, fmt.Errorf("%s: %w", name, err)
		}
		cs = append(cs, c)
	}
	return cs, nil
}

func closeAll(cs []contender) (err error) {
	for _, c := range cs {
		err = errors.Join(err, c.close())
	}
	return err
}

// eachRound calls do for each contender in each round, beginning with another
// one each time.
func (b *bench) eachRound(ctx context.Context, cs []contender, do func(contender) error) error {
	for round := range b.rounds {
		for i := range cs {
			c := cs[(round+i)%len(cs)]
			if err := b.quiet(ctx); err != nil {
				return err
			}
			if err := do(c); err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, c.name(), err)
			}
		}
	}
	return nil
}

// body is JSON that compresses as GitHub's webhooks of this size do (to a fifth,
// by zlib's fastest), with the time it was made at. No two are alike.
func body(size int, n int64) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"at":%d,"items":[`, time.Now().UnixNano())
	for i := n; b.Len() < size-100; i++ {
		fmt.Fprintf(&b, `{"id":%d,"node_id":"%014x","url":"https://api.github.com/repos/acme/api/issues/%d"},`,
			i*7919, uint64(i)*0x9e3779b97f4a7c15>>8, i)
	}
	fmt.Fprintf(&b, `{"pad":"%s"}]}`, strings.Repeat("x", max(0, size-b.Len()-12)))
	return b.Bytes()
}

// bodies are made before the clock starts.
func (b *bench) bodies(n int) [][]byte {
	bodies := make([][]byte, n)
	for i := range bodies {
		bodies[i] = body(b.body, int64(i)*1000)
	}
	return bodies
}

// send stores n events from the senders, and tells the time it took.
func (b *bench) send(ctx context.Context, c contender, n int) (time.Duration, error) {
	return b.sendBodies(ctx, c, b.bodies(n))
}

func (b *bench) sendBodies(ctx context.Context, c contender, bodies [][]byte) (time.Duration, error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, b.senders)
	begin := time.Now()
	for range b.senders {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				if err := c.insert(ctx, bodies[i]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	select {
	case err := <-errs:
		return 0, err
	default:
		return took, nil
	}
}
