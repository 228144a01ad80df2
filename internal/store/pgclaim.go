package store

import (
	"cmp"
	"context"
	"slices"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Claims and settles in one statement each: SQLite, where a round trip costs
// nothing, has no CTE that writes.

// Claim implements queue.Store.
func (p *Postgres) Claim(ctx context.Context, c queue.ClaimParams) (jobs []queue.Job, err error) {
	if p.session.pooled { // its settings are a transaction's
		return p.shared.Claim(ctx, c)
	}
	begin, from := queue.Clock(), fromBeginning
	if !c.Suspects {
		from, _ = p.floors.from(c.Route, begin)
	}
	o := &op{ctx: ctx, statement: func(ctx context.Context, conn *pgxpool.Conn, mark int64) (err error) {
		jobs, err = allRows(ctx, conn, claimAtOnce[c.Suspects], args{c.Route, c.DueBy, c.WorkerID, c.Limit, c.Now, mark, int64(from)},
			func(rows pgx.Rows, j *queue.Job) error {
				l, scan := newLoaded()
				if err := rows.Scan(append(jobFields(j), scan.fields...)...); err != nil {
					return err
				}
				p.ahead.put(l, scan, begin)
				return nil
			})
		return err
	}, recall: func(ctx context.Context, mark int64) (err error) {
		jobs, err = all(ctx, p.reads, `SELECT `+jobColumns+` FROM webhook_jobs WHERE route = $2 AND worker_id = $3
			AND status = 'processing' AND event_id IN (SELECT unnest(m.events) FROM webhook_commits m WHERE m.mark = $1)`,
			args{mark, c.Route, c.WorkerID}, scanJob)
		return err
	}}
	if err := p.run(o); err != nil {
		return nil, err
	}
	if !c.Suspects && len(jobs) > 0 { // none may mean that the worker has gone
		p.floors.learn(c.Route, from, slices.MinFunc(jobs, byDue).DueAt, begin)
	}
	return jobs, nil
}

func byDue(a, b queue.Job) int { return cmp.Compare(a.DueAt, b.DueAt) }

// claimAtOnce is claimQuery with the counters and the mark, and with what its
// jobs will be asking for. A claim is of one route, so that an event occurs once.
var claimAtOnce = map[bool]statement{false: atOnceClaim(false), true: atOnceClaim(true)}

func atOnceClaim(suspects bool) statement {
	return fillSlots(`WITH ` + replace(nextJobs(suspects), "/*and from*/", "AND j.due_at >= $7") + `,
		c AS (` + claimNext + `),
		mark AS (INSERT INTO webhook_commits (mark, events) SELECT $6, array_agg(event_id) FROM next HAVING count(*) > 0),
		d AS (SELECT event_id AS id, - (was = 'pending')::int AS p, 1 AS r, - (was = 'failed')::int AS f, 0 AS x, 0 AS tell,
			0 AS rc, 0 AS mr, '' AS em, NULL::bigint AS nr, $5::bigint AS at FROM c)/*lock events*/,
		e AS (` + counterMoves + ` /*locked*/ WHERE webhook_events.id = d.id RETURNING webhook_events.*)
		SELECT ` + replace(qualified("c", jobColumns), "c.match_pending", "c.match_pending <> 0") + `,
			p.headers, p.codec, CASE WHEN e.body_size <= ` + digits(maxAhead) + ` THEN p.body END, ` + eventColumns + `
		FROM c JOIN e ON e.id = c.event_id LEFT JOIN webhook_payloads p ON p.event_id = c.event_id`)
}

// settleAtOnce ends claims, with their attempts and the counters of their
// events. The arrays are columns of a CTE so that the planner, which would
// count those of a parameter, makes one plan for groups of any size; beside them
// stands how long this statement waits for a lock. The rows are made of them
// before any is locked: a row that is to be locked would carry the arrays along,
// each of them whole. What is told of an event is
// what its worst job says, and of those the last.
var settleAtOnce = fillSlots(`WITH given AS MATERIALIZED (SELECT set_config('lock_timeout',
				'` + digits(settleLock.Milliseconds()) + `', true), $1::bigint[] AS a, $2::text[] AS b, $3::bigint[] AS c,
			$4::text[] AS d, $5::text[] AS e, $6::integer[] AS f, $7::text[] AS g, $8::bigint[] AS h, $9::integer[] AS i,
			$10::bigint[] AS j, $11::smallint[] AS k, $12::bigint[] AS l, $13::text[] AS m, $14::bigint[] AS n,
			$15::bigint[] AS o, $16::bytea[] AS p, $17::text[] AS q, $18::text[] AS r, $19::text[] AS s),
		s AS MATERIALIZED (SELECT s.* FROM given, unnest(given.a, given.b, given.c, given.d, given.e, given.f, given.g, given.h, given.i, given.j, given.k,
				given.l, given.m, given.n, given.o, given.p, given.q, given.r, given.s) WITH ORDINALITY
				AS s (event_id, route, claim_seq, worker_id, status, retry_count, error_message, due_at, crash_count,
					unavailable_since, match_pending, finished_at, outcome, exit_code, http_status, output, version,
					config_hash, told, place)),
		next AS MATERIALIZED (
			SELECT s.*, j.max_retries, j.started_at FROM s JOIN webhook_jobs j ON j.event_id = s.event_id AND j.route = s.route
			WHERE j.claim_seq = s.claim_seq AND j.worker_id = s.worker_id AND j.status = 'processing'
			ORDER BY s.event_id, s.route /*lock jobs*/),
		j AS (` + settleNext + `),
		a AS (INSERT INTO webhook_attempts (event_id, route, claim_seq, worker_id, outcome, started_at, finished_at, exit_code,
				http_status, error_message, output, version, config_hash)
			SELECT event_id, route, claim_seq, worker_id, outcome, started_at, finished_at, exit_code, http_status,
				error_message, output, version, config_hash FROM next),
		t AS (SELECT *, CASE status WHEN 'completed' THEN 1 WHEN 'failed' THEN 2 WHEN 'dead_letter' THEN 2 ELSE 0 END AS tell FROM next),
		d AS (SELECT DISTINCT ON (event_id) event_id AS id, tell, retry_count AS rc, max_retries AS mr, told AS em,
				count(*) FILTER (WHERE status = 'pending') OVER w AS p, - count(*) OVER w AS r,
				count(*) FILTER (WHERE status = 'failed') OVER w AS f, count(*) FILTER (WHERE status = 'dead_letter') OVER w AS x,
				CASE WHEN bool_or(status = 'failed') OVER w THEN
					first_value(due_at) OVER (PARTITION BY event_id ORDER BY status = 'failed' DESC, place DESC) END AS nr,
				max(finished_at) OVER w AS at
			FROM t WINDOW w AS (PARTITION BY event_id) ORDER BY event_id, tell DESC, place DESC)/*lock events*/,
		e AS (` + counterMoves + ` /*locked*/ WHERE webhook_events.id = d.id)
	SELECT event_id, route FROM next`)

// settleColumns are the values of settleAtOnce.
func settleColumns(items []settling) args {
	return args{
		column(items, func(s settling) int64 { return s.EventID }),
		column(items, func(s settling) string { return s.Route }),
		column(items, func(s settling) int64 { return s.Seq }),
		column(items, func(s settling) string { return string(s.WorkerID) }),
		column(items, func(s settling) string { return string(s.Status) }),
		column(items, func(s settling) int { return s.RetryCount }),
		column(items, func(s settling) *string { return text(s.ErrorMessage) }),
		column(items, func(s settling) *int64 { return number(s.DueAt) }),
		column(items, func(s settling) int { return s.CrashCount }),
		column(items, func(s settling) *int64 { return number(s.UnavailableSince) }),
		column(items, func(s settling) int64 { return bit(s.MatchPending) }),
		column(items, func(s settling) *int64 { return number(s.FinishedAt) }),
		column(items, func(s settling) string { return string(s.Ending) }),
		column(items, func(s settling) *int { return s.Result.ExitCode }),
		column(items, func(s settling) *int64 { return number(s.Result.HTTPStatus) }),
		column(items, func(s settling) []byte { return s.Result.Output }),
		column(items, func(s settling) *string { return text(s.Version) }),
		column(items, func(s settling) *string { return text(s.ConfigHash) }),
		column(items, func(s settling) *string { return text(s.told()) }),
	}
}

func column[T, V any](items []T, of func(T) V) []V {
	values := make([]V, len(items))
	for i, item := range items {
		values[i] = of(item)
	}
	return values
}

// text is NULL where it is absent.
func text[S ~string](s S) *string {
	if s == "" {
		return nil
	}
	v := string(s)
	return &v
}

// number is NULL where it is absent.
func number[N ~int64](n N) *int64 {
	if n == 0 {
		return nil
	}
	v := int64(n)
	return &v
}

// allRows is all for the driver's own rows.
func allRows[T any](ctx context.Context, conn *pgxpool.Conn, query statement, a args, scan func(pgx.Rows, *T) error) ([]T, error) {
	rows, err := conn.Query(ctx, string(query), a...)
	if err != nil {
		return nil, err
	}
	var out []T
	err = eachRow(rows, func(rows pgx.Rows) error {
		var v T
		err := scan(rows, &v)
		out = append(out, v)
		return err
	})
	return out, err
}
