package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

// TestServerQueryPlans holds the hot queries to their indexes on a table as it
// is after a while: many jobs completed, few open. A plan may walk what is
// small; it may not walk or sort what grows.
func TestServerQueryPlans(t *testing.T) {
	s := openServer(t, "")
	for _, statement := range []string{
		`INSERT INTO webhook_events (source, delivery_id, event_type, received_at, created_at, updated_at, body_size, body_sha256)
			SELECT 'github', 'd' || g, 'push', g, g, g, 0, repeat('0', 64) FROM generate_series(1, 20000) g`,
		`INSERT INTO webhook_payloads (event_id, headers, codec, body) SELECT g, '{}', 0, '{}' FROM generate_series(1, 20000) g`,
		`INSERT INTO webhook_jobs (event_id, route, status, max_retries, due_at, worker_id)
			SELECT g, 'a', CASE WHEN g % 400 = 0 THEN 'pending' WHEN g % 401 = 0 THEN 'dead_letter' WHEN g % 2000 = 1 THEN 'processing'
				ELSE 'completed' END, 3, g, 'w' FROM generate_series(1, 20000) g`,
		`INSERT INTO webhook_attempts (event_id, route, claim_seq, outcome, finished_at) SELECT g, 'a', 1, 'completed', g FROM generate_series(1, 20000) g`,
		`INSERT INTO workers (id, host, pid, version, routes, slots, started_at, heartbeat_at) VALUES ('w', '', 0, '', '', 0, 0, 0)`,
		"VACUUM ANALYZE",
	} {
		if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	due, dueArgs := dueQuery([]string{"a", "b"}, nil)
	routes, routesArgs := routesQuery([]int64{1, 2})
	requeue, requeueArgs := moveQuery([]queue.Job{{Status: queue.StatusDeadLetter}, {}}, queue.Move{To: queue.StatusPending})
	settleText, settleArgs := settleQuery(make([]settling, 10))
	dead, deadArgs := selectQuery(queue.Filter{Repository: "a/b", Before: 9999}, []queue.Status{queue.StatusDeadLetter}, queue.JobKey{}, 10)
	list, listArgs := listQuery(queue.Filter{}, 50)
	page, pageArgs := listQuery(queue.Filter{Before: 900}, 50)
	listDead, listDeadArgs := listQuery(queue.Filter{Status: queue.StatusDeadLetter}, 50)
	listRoute, listRouteArgs := listQuery(queue.Filter{Route: "a"}, 50)
	listFailed, listFailedArgs := listQuery(queue.Filter{Status: queue.StatusFailed}, 50)
	listDelivery, listDeliveryArgs := listQuery(queue.Filter{Delivery: "d777"}, 50)
	const jobKey, eventKey = "webhook_jobs_pkey", "webhook_events_pkey"
	tests := []struct {
		name  string
		query statement
		args  args
		want  []string // in the plan
	}{
		{"claim", claimQuery(false), args{"a", 1, "w", 1, 1}, []string{"Index Scan using webhook_jobs_due", "LockRows", jobKey}},
		{"claim suspects", claimQuery(true), args{"a", 1, "w", 1, 1}, []string{"webhook_jobs_suspect", jobKey}},
		{"claim at once", atOnceClaim(false), args{"a", 1, "w", 1, 1, 1, 0}, []string{"Index Scan using webhook_jobs_due", "LockRows", jobKey, eventKey}},
		{"settle at once", settleAtOnce, settleColumns(make([]settling, 10)), []string{"LockRows", jobKey, eventKey}},
		{"load", loadQuery, args{[]int64{1, 2}}, []string{eventKey, "webhook_payloads_pkey"}},
		{"due", due, dueArgs, []string{"webhook_jobs_due", "webhook_jobs_suspect"}},
		{"settle", settleText, settleArgs, []string{"LockRows", jobKey}},
		{"requeue", requeue, requeueArgs, []string{"LockRows", jobKey}},
		{"counters", deltaQueryOf(t, 10), nil, []string{"LockRows", "webhook_events_pkey"}},
		{"rescue", orphanQuery, nil, []string{"webhook_jobs_processing"}},
		{"held", heldQuery, args{"w"}, []string{"webhook_jobs_processing"}},
		{"routes of a page", routes, routesArgs, []string{jobKey}},
		{"select dead", dead, deadArgs, []string{"webhook_jobs_dead", "webhook_events_pkey"}},
		{"cleanup", cleanQuery, args{1, 2}, []string{"webhook_events_pkey"}},
		{"waiting", waitingQuery, nil, []string{"webhook_jobs_due"}},
		{"count dead", statsDead, nil, []string{"webhook_jobs_dead"}},
		{"count processing", statsProcessing, nil, []string{"webhook_jobs_processing"}},
		{"dedup", `SELECT hook_id FROM webhook_events WHERE delivery_id = $1 AND source = $2`, args{"d1", "github"}, []string{"webhook_events_delivery_id_source_key"}},
		{"list newest", list, listArgs, []string{"Index Scan Backward using webhook_events_pkey"}},
		{"list page", page, pageArgs, []string{"Index Scan Backward using webhook_events_pkey"}},
		{"list dead", listDead, listDeadArgs, []string{"webhook_jobs_dead"}},
		{"list failed", listFailed, listFailedArgs, []string{"webhook_jobs_due"}},
		{"list route", listRoute, listRouteArgs, []string{"webhook_events_pkey", jobKey}},
		{"list delivery", listDelivery, listDeliveryArgs, []string{"webhook_events_delivery_id_source_key"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plan := s.explain(t, test.query, test.args)
			for _, want := range test.want {
				if !strings.Contains(plan, want) {
					t.Errorf("want %q in the plan:\n%s", want, plan)
				}
			}
			if strings.Contains(plan, "Seq Scan on webhook_") {
				t.Errorf("the plan walks a whole table:\n%s", plan)
			}
		})
	}
}

// explain plans a query with its locks, as a transaction runs it.
func (p *Postgres) explain(t *testing.T, query statement, a args) string {
	t.Helper()
	lines, err := write(t.Context(), p, op{recognises: always}, func(ctx context.Context, q querier) ([]string, error) {
		return all(ctx, q, "EXPLAIN "+query, a, func(rows *sql.Rows, line *string) error { return rows.Scan(line) })
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
	return strings.Join(lines, "\n")
}

// recorder keeps the text of a statement instead of running it.
type recorder struct {
	querier
	text string
	args []any
}

func (r *recorder) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	r.text, r.args = query, args
	return nil, sql.ErrNoRows
}

// deltaQueryOf is the statement that moves the counters of n events, with its
// values in place of the parameters.
func deltaQueryOf(t *testing.T, n int64) statement {
	t.Helper()
	ds := deltas{}
	for id := range n {
		ds.at(id+1, 1)
	}
	var r recorder
	_ = ds.apply(t.Context(), &r)
	text := r.text
	for i := len(r.args); i > 0; i-- {
		text = strings.ReplaceAll(text, fmt.Sprintf("$%d", i), "NULL")
	}
	return statement(strings.Replace(text, "VALUES (CAST(NULL AS BIGINT)", "VALUES (CAST(1 AS BIGINT)", 1))
}
