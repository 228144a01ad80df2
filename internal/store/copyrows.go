package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// copied is a table that a copy moves.
type copied struct {
	name    statement
	keys    int         // the first columns are its key
	columns []statement // those that are stored
	derived []statement // those that the database makes of them
	weight  statement   // SQL: the bytes of a row's large values; "": it has none
}

// copiedTables are in the order in which rows refer to one another. Workers
// stay behind: they are processes on the other database. So do the marks of
// commits.
var copiedTables = []copied{
	{name: "webhook_events", keys: 1, columns: columnsOf(`id, source, delivery_id, event_type, action, repository, sender, ref,
		number, hook_id, n_pending, n_processing, n_failed, n_dead, retry_count, max_retries, error_message, next_retry_at,
		received_at, processed_at, created_at, updated_at, requeued_at, purged_at, duplicate_count, last_duplicate_at,
		conflict_count, body_size, body_sha256`), derived: []statement{"status"}},
	{
		name: "webhook_payloads", keys: 1, columns: columnsOf(`event_id, headers, codec, body`),
		weight: "length(headers) + length(body)",
	},
	{name: "webhook_jobs", keys: 2, columns: columnsOf(`event_id, route, status, retry_count, max_retries, error_message, due_at,
		claim_seq, worker_id, crash_count, unavailable_since, match_pending, started_at, finished_at`)},
	{name: "webhook_attempts", keys: 3, columns: columnsOf(`event_id, route, claim_seq, worker_id, outcome, started_at, finished_at,
		exit_code, http_status, error_message, output, version, config_hash`), weight: "coalesce(length(output), 0)"},
}

// Of the others all are numbers.
var (
	textColumns = columnsOf(`source, delivery_id, event_type, action, repository, sender, ref, error_message, body_sha256, route,
		status, worker_id, outcome, version, config_hash`)
	blobColumns = columnsOf(`headers, body, output`)
)

func columnsOf(list statement) (names []statement) {
	for name := range strings.SplitSeq(string(list), ",") {
		names = append(names, statement(strings.TrimSpace(name)))
	}
	return names
}

func (t copied) key() statement { return join(t.columns[:t.keys], ", ") }

const (
	// copyRows and copyBytes bound what is read or written at once; a single row
	// may be larger.
	copyRows  = 500
	copyBytes = 4 << 20
	// copyParameters bounds a statement's on SQLite.
	copyParameters = 120
)

// row is one of a copied table: its stored values, then the derived ones. They
// are int64, string, []byte or nil, whatever the database.
type row []any

func (r row) size() (n int) {
	for _, v := range r {
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
		n += 8
	}
	return n
}

// compareKeys orders two rows as both databases do: numbers by value, texts by
// their bytes.
func compareKeys(a, b []any) int {
	for i := range a {
		var order int
		switch x := a[i].(type) {
		case int64:
			y, _ := b[i].(int64)
			order = cmp.Compare(x, y)
		case string:
			y, _ := b[i].(string)
			order = strings.Compare(x, y)
		}
		if order != 0 {
			return order
		}
	}
	return 0
}

func sameRow(a, b row) bool {
	return slices.EqualFunc(a, b, func(x, y any) bool {
		bx, isBytes := x.([]byte)
		by, areBytes := y.([]byte)
		if isBytes || areBytes {
			return isBytes && areBytes && bytes.Equal(bx, by)
		}
		return x == y
	})
}

// scroll reads a table in the order of its key, a page at a time: each is a
// short read of its own, so that nobody waits for it.
type scroll struct {
	q     querier
	t     copied
	page  []row
	after []any // the key up to which pages were read
	ended bool
}

// next returns nil after the last row.
func (s *scroll) next(ctx context.Context) (row, error) {
	for len(s.page) == 0 && !s.ended {
		if err := s.load(ctx); err != nil {
			return nil, fmt.Errorf("read %s after %v: %w", s.t.name, s.after, err)
		}
	}
	if len(s.page) == 0 {
		return nil, nil
	}
	r := s.page[0]
	s.page = s.page[1:]
	return r, nil
}

func (s *scroll) load(ctx context.Context) error {
	upto, err := s.reach(ctx)
	if err != nil || s.ended {
		return err
	}
	query, a := s.query(join(slices.Concat(s.t.columns, s.t.derived), ", "), upto)
	if s.page, err = all(ctx, s.q, query, a, scanRow); err != nil {
		return err
	}
	s.after = upto // what was there a moment ago may be gone
	if n := len(s.page); n > 0 {
		s.after = s.page[n-1][:s.t.keys]
	}
	s.ended = upto == nil && len(s.page) < copyRows
	return nil
}

// reach looks how far a page may go within its bytes; nil if the number of rows
// is bound enough. Values that lie apart are not read for that.
func (s *scroll) reach(ctx context.Context) (upto []any, err error) {
	if s.t.weight == "" {
		return nil, nil
	}
	query, a := s.query(s.t.key()+", "+s.t.weight, nil)
	total := int64(0)
	rows, err := all(ctx, s.q, query, a, scanRow)
	for _, r := range rows {
		weight, _ := r[s.t.keys].(int64)
		if total += weight; total > copyBytes && upto != nil {
			break
		}
		upto = r[:s.t.keys]
	}
	s.ended = err == nil && len(rows) == 0
	return upto, err
}

func (s *scroll) query(columns statement, upto []any) (statement, args) {
	var a args
	var conds []statement
	bound := func(operator statement, key []any) {
		if key != nil {
			conds = append(conds, fillIn("(%s) %s (%s)", s.t.key(), operator, list(&a, key)))
		}
	}
	bound(">", s.after)
	bound("<=", upto)
	var where statement
	if len(conds) > 0 {
		where = " WHERE " + join(conds, " AND ")
	}
	return fillIn("SELECT %s FROM %s%s ORDER BY %s LIMIT %s", columns, s.t.name, where, s.t.key(), digits(copyRows)), a
}

func scanRow(rows *sql.Rows, r *row) error {
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	*r = make(row, len(names))
	fields := make([]any, len(names))
	for i := range fields {
		fields[i] = &(*r)[i]
	}
	err = rows.Scan(fields...)
	for i, v := range *r {
		if b, isBytes := v.([]byte); isBytes {
			(*r)[i] = notNull(b) // an empty one; NULL is no []byte
		}
	}
	return err
}

// changes are what a batch does to the target, by rows.
type changes struct {
	t                      copied
	arrays                 bool  // the target is a server
	added, changed, missed []row // missed: gone from the source
	bytes                  int
}

func (c *changes) full() bool {
	return len(c.added)+len(c.changed)+len(c.missed) >= copyRows || c.bytes >= copyBytes
}

// apply may run again. An event whose delivery id another event still has, and
// what belongs to an event that is not there, can't be stored yet, while the
// source is written to; the last pass finds them.
func (c *changes) apply(ctx context.Context, q querier) error {
	if len(c.missed) > 0 {
		var a args
		keys := a.values(castsOf(c.missed[0][:c.t.keys]), len(c.missed), func(i int) []any { return c.missed[i][:c.t.keys] })
		if _, err := exec(ctx, q, fillIn("DELETE FROM %s WHERE (%s) IN (VALUES %s)", c.t.name, c.t.key(), keys), a...); err != nil {
			return fmt.Errorf("delete from %s: %w", c.t.name, err)
		}
	}
	added, err := c.withEvents(ctx, q, c.added)
	if err == nil {
		err = c.insert(ctx, q, added, "DO NOTHING")
	}
	if err != nil {
		return err
	}
	var set []statement
	for _, name := range c.t.columns[c.t.keys:] {
		set = append(set, name+" = excluded."+name)
	}
	return c.insert(ctx, q, c.changed, fillIn("(%s) DO UPDATE SET %s", c.t.key(), join(set, ", ")))
}

func castsOf(key []any) (casts []statement) {
	for _, v := range key {
		var cast statement = "BIGINT"
		if _, isText := v.(string); isText {
			cast = "TEXT"
		}
		casts = append(casts, cast)
	}
	return casts
}

// insert gives a server a batch at once, as one array a column, by one text for
// any number of rows. SQLite looks up each parameter by walking over those before
// it, so that it gets few at a time.
func (c *changes) insert(ctx context.Context, q querier, rows []row, conflict statement) error {
	n := max(1, copyParameters/len(c.t.columns))
	if c.arrays {
		n = copyRows
	}
	for rows := range slices.Chunk(rows, n) {
		var a args
		var source statement
		if c.arrays {
			source = a.arrays(c.t.columns, rows)
		} else {
			source = "VALUES " + a.values(nil, len(rows), func(i int) []any { return rows[i][:len(c.t.columns)] })
		}
		_, err := exec(ctx, q, fillIn("INSERT INTO %s (%s) %s ON CONFLICT %s",
			c.t.name, join(c.t.columns, ", "), source, conflict), a...)
		if err != nil {
			return fmt.Errorf("write %s from %v to %v: %w", c.t.name, rows[0][:c.t.keys], rows[len(rows)-1][:c.t.keys], err)
		}
	}
	return nil
}

// arrays renders rows as a table that a server makes of an array for each column.
func (a *args) arrays(columns []statement, rows []row) statement {
	var names []statement
	for i, name := range columns {
		switch {
		case slices.Contains(textColumns, name):
			names = append(names, a.add(column(rows, func(r row) *string { return orNil[string](r[i]) }))+"::text[]")
		case slices.Contains(blobColumns, name):
			names = append(names, a.add(column(rows, func(r row) []byte { b, _ := r[i].([]byte); return b }))+"::bytea[]")
		default:
			names = append(names, a.add(column(rows, func(r row) *int64 { return orNil[int64](r[i]) }))+"::bigint[]")
		}
	}
	return "SELECT * FROM unnest(" + join(names, ", ") + ")"
}

func orNil[T any](v any) *T {
	if t, ok := v.(T); ok {
		return &t
	}
	return nil
}

// withEvents leaves out rows of events that the target does not have.
func (c *changes) withEvents(ctx context.Context, q querier, rows []row) ([]row, error) {
	if len(rows) == 0 || c.t.name == copiedTables[0].name {
		return rows, nil
	}
	var ids []any
	for _, r := range rows {
		if n := len(ids); n == 0 || ids[n-1] != r[0] {
			ids = append(ids, r[0])
		}
	}
	var a args
	there := map[any]bool{}
	err := each(ctx, q, `SELECT id FROM webhook_events WHERE id IN (`+list(&a, ids)+`)`, a, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		there[id] = true
		return err
	})
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return !there[r[0]] }), err
}

// digest is a SHA-256 over the rows of a table in the order of its key. A value
// is a letter for its kind and, but for NULL, its length and bytes; numbers have
// eight, the highest first. Both databases come to the same.
func digest(ctx context.Context, q querier, t copied, progress func(rows int64)) (n int64, sum string, err error) {
	h := sha256.New()
	s := &scroll{q: q, t: t}
	for {
		r, err := s.next(ctx)
		if err != nil {
			return 0, "", err
		}
		if r == nil {
			return n, hex.EncodeToString(h.Sum(nil)), nil
		}
		if err := hashRow(h, r); err != nil {
			return 0, "", fmt.Errorf("%s %v: %w", t.name, r[:t.keys], err)
		}
		if n++; n%copyRows == 0 {
			progress(copyRows)
		}
	}
}

func hashRow(h hash.Hash, r row) error {
	for _, v := range r {
		head := make([]byte, 1, 9)
		var body []byte
		switch v := v.(type) {
		case nil:
			head[0] = 'n'
		case int64:
			head[0] = 'i'
			head = binary.BigEndian.AppendUint64(head, uint64(v)) //nolint:gosec // its bits, whatever the sign
		case string:
			head[0], body = 't', []byte(v)
			head = binary.BigEndian.AppendUint64(head, uint64(len(v)))
		case []byte:
			head[0], body = 'b', v
			head = binary.BigEndian.AppendUint64(head, uint64(len(v)))
		default:
			return fmt.Errorf("a column holds %T", v)
		}
		_, _ = h.Write(head) // a hash does not fail
		_, _ = h.Write(body)
	}
	return nil
}
