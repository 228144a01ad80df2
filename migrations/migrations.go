// Package migrations embeds the schema, as numbered SQL files for each
// database.
package migrations

import "embed"

// Files holds sqlite/*.sql.
//
//go:embed sqlite/*.sql
var Files embed.FS
