package store

import (
	"database/sql"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

// TestQueryPlans holds every hot query to the index that it must use. A plan
// line that walks a table whole (SCAN without an index) is allowed only where
// the query must see every row.
func TestQueryPlans(t *testing.T) {
	s := open(t, "")
	due, dueArgs := dueQuery([]string{"a", "b"}, nil)
	routes, routesArgs := routesQuery([]int64{1, 2})
	requeue, requeueArgs := moveQuery([]queue.Job{{Status: queue.StatusDeadLetter}, {}}, queue.Move{To: queue.StatusPending})
	cancel, cancelArgs := moveQuery([]queue.Job{{Status: queue.StatusPending}}, queue.Move{To: queue.StatusDeadLetter})
	dead, deadArgs := selectQuery(queue.Filter{Repository: "a/b", Before: 9}, []queue.Status{queue.StatusDeadLetter}, queue.JobKey{}, 10)
	openJobs, openArgs := selectQuery(queue.Filter{}, queue.Open(), queue.JobKey{}, 10)
	const (
		byDue    = "j USING INDEX webhook_jobs_due (route=? AND due_at<?)"
		byKey    = "USING PRIMARY KEY (event_id=? AND route=?)"
		newest   = "SCAN e"
		eventKey = "e USING INTEGER PRIMARY KEY (rowid=?)"
	)
	later, laterArgs := restampStatement(queue.Restamp{Route: "a", By: 1})
	ahead, aheadArgs := restampStatement(queue.Restamp{Route: "a"})
	tests := []struct {
		name  string
		query statement
		args  args
		want  []string // in the plan
	}{
		{"claim", claimQuery(false), args{"a", 1, "w", 1, 1}, []string{byDue, "webhook_jobs USING PRIMARY KEY (event_id=? AND route=?)"}},
		{"claim suspects", claimQuery(true), args{"a", 1, "w", 1, 1}, []string{"USING INDEX webhook_jobs_suspect (route=? AND due_at<?)"}},
		{"due", due, dueArgs, []string{"USING INDEX webhook_jobs_due (route=? AND due_at>?)", "USING INDEX webhook_jobs_suspect (route=?)"}},
		{"later", later, laterArgs, []string{"j USING INDEX webhook_jobs_due (route=? AND due_at>? AND due_at<?)", byKey}},
		{"stamped ahead", ahead, aheadArgs, []string{"j USING INDEX webhook_jobs_due (route=? AND due_at>?)", byKey}},
		{"rescue", orphanQuery, nil, []string{"USING INDEX webhook_jobs_processing"}},
		{"held", heldQuery, args{"w"}, []string{"USING INDEX webhook_jobs_processing (worker_id=?)"}},
		{
			"dedup", `SELECT hook_id FROM webhook_events WHERE delivery_id = $1 AND source = $2`,
			args{"d", "s"},
			[]string{"USING INDEX sqlite_autoindex_webhook_events_1 (delivery_id=? AND source=?)"},
		},
		{"routes of a page", routes, routesArgs, []string{"USING PRIMARY KEY (event_id=?)"}},
		{"requeue", requeue, requeueArgs, []string{byKey}},
		{"cancel", cancel, cancelArgs, []string{byKey}},
		{"select dead", dead, deadArgs, []string{"USING INDEX webhook_jobs_dead ((event_id,route)>(?,?)", "e EXISTS USING INTEGER PRIMARY KEY (rowid=?)"}},
		{"select open", openJobs, openArgs, []string{"USING PRIMARY KEY"}},
		{"cleanup", cleanQuery, args{1, 2}, []string{"webhook_events USING INTEGER PRIMARY KEY (rowid>?)"}},
		{"waiting", waitingQuery, nil, []string{"USING INDEX webhook_jobs_due"}},
		{"count open", statsOpen, nil, []string{"USING INDEX webhook_jobs_due"}},
		{"count processing", statsProcessing, nil, []string{"USING COVERING INDEX webhook_jobs_processing"}},
		{"count dead", statsDead, nil, []string{"USING COVERING INDEX webhook_jobs_dead"}},
	}
	for _, f := range []struct {
		name   string
		filter queue.Filter
		want   string
	}{
		{"all", queue.Filter{}, newest},
		{"page", queue.Filter{Before: 9}, "e USING INTEGER PRIMARY KEY (rowid<?)"},
		{"ids", queue.Filter{IDs: []int64{1}}, eventKey},
		{"dead", queue.Filter{Status: queue.StatusDeadLetter}, "USING COVERING INDEX webhook_jobs_dead"},
		{"processing", queue.Filter{Status: queue.StatusProcessing}, "USING COVERING INDEX webhook_jobs_processing"},
		{"failed", queue.Filter{Status: queue.StatusFailed}, "USING INDEX webhook_jobs_due"},
		{"pending", queue.Filter{Status: queue.StatusPending}, "USING INDEX webhook_jobs_due"},
		{"completed", queue.Filter{Status: queue.StatusCompleted}, newest},
		{"event", queue.Filter{EventType: "push"}, newest},
		{"action", queue.Filter{Action: "x"}, newest},
		{"repository", queue.Filter{Repository: "a/b"}, newest},
		{"sender", queue.Filter{Sender: "x"}, newest},
		{"route", queue.Filter{Route: "a"}, byKey},
		{"delivery", queue.Filter{Delivery: "d"}, "USING INDEX sqlite_autoindex_webhook_events_1 (delivery_id>? AND delivery_id<?)"},
		{"source", queue.Filter{Source: "a"}, newest},
		{"since", queue.Filter{Since: 1}, newest},
		{"until", queue.Filter{Until: 1}, newest},
	} {
		query, a := listQuery(f.filter, 50)
		tests = append(tests, struct {
			name  string
			query statement
			args  args
			want  []string
		}{"list " + f.name, query, a, []string{f.want}})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plan := explain(t, s.pool, test.query, test.args)
			for _, want := range test.want {
				if !strings.Contains(plan, want) {
					t.Errorf("want %q in the plan:\n%s", want, plan)
				}
			}
			// Walking newest first by rowid needs no sort; every other temporary
			// sort would be over all rows.
			if strings.HasPrefix(test.name, "list") && test.name != "list delivery" && strings.Contains(plan, "TEMP B-TREE FOR ORDER BY") {
				t.Errorf("the plan sorts:\n%s", plan)
			}
			for line := range strings.Lines(plan) {
				if strings.Contains(line, "SCAN webhook_") && !strings.Contains(line, "INDEX") {
					t.Errorf("the plan walks a whole table:\n%s", plan)
				}
			}
		})
	}
}

func explain(t *testing.T, db *sql.DB, query statement, a args) string {
	t.Helper()
	var b strings.Builder
	err := each(t.Context(), db, "EXPLAIN QUERY PLAN "+query, a, func(rows *sql.Rows) error {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			return err
		}
		b.WriteString(detail + "\n")
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
	return b.String()
}
