package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverConns is how many connections River's pool may open: more of them made
// it no faster, fewer slower.
const riverConns = 32

// args are a job's. The payload is one string: as JSON below args, each of its
// keys and values would go into River's GIN index, and River be far slower.
type jobArgs struct {
	Payload string `json:"payload"`
}

// Kind implements river.JobArgs.
func (jobArgs) Kind() string { return "webhook" }

type riverWorker struct {
	river.WorkerDefaults[jobArgs]
	handle func([]byte)
}

// Work implements river.Worker.
func (w *riverWorker) Work(_ context.Context, j *river.Job[jobArgs]) error {
	w.handle([]byte(j.Args.Payload))
	return nil
}

// riverQueue is a River client.
type riverQueue struct {
	label, database string
	pool            *pgxpool.Pool
	client          *river.Client[pgx.Tx]
}

func newRiver(ctx context.Context, label, database string, slots int) (*riverQueue, error) {
	pool, err := riverPool(ctx, database)
	if err != nil {
		return nil, err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	var client *river.Client[pgx.Tx]
	if err == nil {
		client, err = riverClient(pool, label, slots, func([]byte) {})
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &riverQueue{label, database, pool, client}, nil
}

func riverPool(ctx context.Context, database string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = riverConns
	return pgxpool.NewWithConfig(ctx, cfg)
}

// riverClient has River's defaults (fetches at most every 100 ms, polls every
// second, completes in batches), or, tuned, fetches and polls as often as
// River's own benchmark does.
func riverClient(pool *pgxpool.Pool, label string, slots int, handle func([]byte)) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{handle: handle})
	cfg := &river.Config{
		Logger: slog.New(slog.DiscardHandler), Workers: workers,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}},
	}
	if label == nameRiverHot {
		cfg.FetchCooldown, cfg.FetchPollInterval = 2*time.Millisecond, 20*time.Millisecond
	}
	return river.NewClient(riverpgxv5.New(pool), cfg)
}

func (r *riverQueue) name() string { return r.label }
func (r *riverQueue) url() string  { return r.database }

func (r *riverQueue) insert(ctx context.Context, body []byte) error {
	_, err := r.client.Insert(ctx, jobArgs{Payload: string(body)}, nil)
	return err
}

// work counts what River tells as completed, after it is stored. A client can
// be started again once it has stopped.
func (r *riverQueue) work(ctx context.Context, n int) (at time.Time, err error) {
	done, cancel := r.client.SubscribeConfig(&river.SubscribeConfig{ChanSize: n, Kinds: []river.EventKind{river.EventKindJobCompleted}})
	defer cancel()
	if err := r.client.Start(ctx); err != nil {
		return at, err
	}
	defer func() { err = errors.Join(err, r.client.Stop(context.WithoutCancel(ctx))) }()
	for range n {
		select {
		case <-done:
		case <-ctx.Done():
			return at, ctx.Err()
		}
	}
	return time.Now(), nil
}

func (r *riverQueue) close() error {
	r.pool.Close()
	return nil
}

// workRiver is the worker of another process.
func workRiver(ctx context.Context, label, database string, slots int, handle func([]byte)) error {
	pool, err := riverPool(ctx, database)
	if err != nil {
		return err
	}
	defer pool.Close()
	client, err := riverClient(pool, label, slots, handle)
	if err != nil {
		return err
	}
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	<-ctx.Done()
	return client.Stop(context.WithoutCancel(ctx))
}

func riverVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/riverqueue/river" {
			return cmp.Or(m.Version, "unknown")
		}
	}
	return ""
}
