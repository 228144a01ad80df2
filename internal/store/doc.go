// Package store keeps events in SQLite.
//
// The SQL is written so that PostgreSQL can share it: ordinal parameters,
// integer times bound from Go, MATERIALIZED CTEs with a place for a lock clause,
// qualified RETURNING, no alias on the target of an UPDATE. Functions that take
// a querier hold one statement or a few; the exported methods own the
// transaction. Statuses in conditions are literals, because a bound one could
// not use the partial indexes.
//
// On SQLite all writes of a process go through one goroutine and one
// connection: it takes what waits, runs it in one transaction, commits once and
// then answers all. That is what makes an fsync for every acknowledged delivery
// affordable. Reads go through a small pool that cannot write.
package store
