package store

import (
	"context"
	"database/sql"

	"orchestrate/internal/queue"
)

// Figures tell how a PostgreSQL database fares: what slows it down before it
// fails.
type Figures struct {
	// OldestTransactionAge is for how long, in milliseconds, some session has
	// kept dead rows from being cleared away; OldestXminAge is that in transactions.
	OldestTransactionAge int64 `json:"oldest_transaction_ms"`
	// Also a prepared transaction or a replication slot can be the one; the age
	// of those in milliseconds is not known.
	OldestXminAge  int64 `json:"oldest_xmin_age"`
	Connections    int64 `json:"connections"` // to the whole server
	MaxConnections int64 `json:"max_connections"`
	// Restricted: this role sees its own sessions only, and can't tell how old
	// the transactions of others are; pg_read_all_stats would let it.
	Restricted bool          `json:"restricted"`
	Tables     []TableFigure `json:"tables"`
}

// TableFigure is one of our tables. Free is an estimate of what a rewrite of
// table and indexes would give back, in bytes, from sampled statistics: it is 0
// until autovacuum has looked at the table.
type TableFigure struct {
	Name         string     `json:"name"`
	Bytes        int64      `json:"bytes"` // with indexes and TOAST
	LiveRows     int64      `json:"live_rows"`
	DeadRows     int64      `json:"dead_rows"`
	Free         int64      `json:"free_bytes_estimate"`
	HotUpdates   int64      `json:"hot_updates"` // of Updates: those that touched no index
	Updates      int64      `json:"updates"`
	LastVacuumed queue.Time `json:"last_vacuumed_at"`
}

const serverFigures = `SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start) * 1000)
			FILTER (WHERE backend_xmin IS NOT NULL OR backend_xid IS NOT NULL), 0)::bigint,
		greatest(coalesce(max(age(backend_xmin)), 0),
			(SELECT coalesce(max(age(p.transaction)), 0) FROM pg_catalog.pg_prepared_xacts p),
			(SELECT coalesce(max(greatest(age(s.xmin), age(s.catalog_xmin))), 0) FROM pg_catalog.pg_replication_slots s))::bigint,
		(SELECT sum(d.numbackends) FROM pg_catalog.pg_stat_database d)::bigint, current_setting('max_connections')::bigint,
		NOT pg_has_role('pg_read_all_stats', 'USAGE')
	FROM pg_catalog.pg_stat_activity`

// The width of a row is that of its columns, with 28 bytes of header and
// pointer; a page holds 8168 bytes; an index entry has 16 bytes beside its
// columns, and its pages are 90 % full when it is made.
const tableFigures = `WITH t AS (SELECT c.oid, c.relname, c.reltuples, s.n_live_tup, s.n_dead_tup, s.n_tup_upd, s.n_tup_hot_upd,
			greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed,
			(SELECT sum((1 - p.null_frac) * p.avg_width) FROM pg_catalog.pg_stats p
				WHERE p.schemaname = s.schemaname AND p.tablename = s.relname) AS width
		FROM pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
		WHERE s.schemaname = current_schema() AND s.relname IN ('webhook_events', 'webhook_payloads', 'webhook_jobs',
			'webhook_attempts', 'workers', 'webhook_commits'))
	SELECT relname, pg_total_relation_size(oid), n_live_tup, n_dead_tup,
		CASE WHEN width IS NULL OR reltuples < 0 THEN 0 ELSE
			greatest(0, pg_relation_size(oid) - ceil(reltuples * (width + 28) / 8168) * 8192) END::bigint,
		n_tup_hot_upd, n_tup_upd, (extract(epoch FROM vacuumed) * 1000)::bigint
	FROM t ORDER BY relname`

// Figures reads them from the server's statistics, which are some seconds old.
func (p *Postgres) Figures(ctx context.Context) (Figures, error) {
	var f Figures
	err := each(ctx, p.reads, serverFigures, nil, func(rows *sql.Rows) error {
		return rows.Scan(&f.OldestTransactionAge, &f.OldestXminAge, &f.Connections, &f.MaxConnections, &f.Restricted)
	})
	if err == nil {
		f.Tables, err = all(ctx, p.reads, tableFigures, nil, func(rows *sql.Rows, t *TableFigure) error {
			return rows.Scan(&t.Name, &t.Bytes, &t.LiveRows, &t.DeadRows, &t.Free, &t.HotUpdates, &t.Updates, &t.LastVacuumed)
		})
	}
	return f, classify(err)
}
