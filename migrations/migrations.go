// Package migrations embeds the schema, as numbered SQL files for each
// database.
package migrations

import "embed"

// Files holds sqlite/*.sql and postgres/*.sql, with the same numbers.
//
//go:embed sqlite/*.sql postgres/*.sql
var Files embed.FS
