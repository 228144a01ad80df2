// Package store keeps events in SQLite or PostgreSQL.
//
// Both share one SQL text: ordinal parameters, integer times bound from Go,
// MATERIALIZED CTEs with slots for a lock clause (comments to SQLite), qualified
// RETURNING, no alias on the target of an UPDATE. What differs is the schema,
// and how an operation becomes a transaction. Functions that take
// a querier hold one statement or a few; the exported methods own the
// transaction. Statuses in conditions are literals, because a bound one could
// not use the partial indexes.
//
// On SQLite all writes of a process go through one goroutine and one
// connection: it takes what waits, runs it in one transaction, commits once and
// then answers all. That is what makes an fsync for every acknowledged delivery
// affordable. Reads go through a small pool that cannot write.
//
// On PostgreSQL each operation is a transaction of its own, run again after a
// deadlock or a lost connection. Where the answer to a commit was lost, a mark
// that was committed with it tells what became of it. New deliveries that wait
// together are one statement, and so are settles; a claim is one, and brings what
// its jobs ask for next. Round trips and the server's syncs are what is dear there.
package store
