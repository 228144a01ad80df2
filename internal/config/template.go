package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// NewFile tells where a new configuration goes: to the file that is named, or
// else to the user's place of the places that are looked into.
func NewFile(named string) (string, error) {
	if named == "" {
		named = os.Getenv("ORCHESTRATE_CONFIG")
	}
	if named != "" {
		return filepath.Abs(named)
	}
	dir := xdg("XDG_CONFIG_HOME", ".config")
	if dir == "" {
		return "", errors.New("there is no home directory to keep a configuration in; name a file with --config")
	}
	return filepath.Join(dir, "orchestrate", "config.yaml"), nil
}

// Template is a commented file with every key. Its database is that of c; kept
// says that secret is a reference to put in. Everything else has its default.
func Template(c *Config, kept bool, secret string) string {
	var b strings.Builder
	b.WriteString(`# Configuration of orchestrate. What is commented out is the default.
# Try it:   orchestrate config validate
# Reload:   kill -HUP the processes of serve and process; listen, admin_listen,
#           database and log.format take a restart.

`)
	fmt.Fprintf(&b, "# %s\ndatabase: %s\n\n", "SQLite file", strconv.Quote(c.Database))
	b.WriteString("# What GitHub signs with, as references: file:PATH or env:NAME. Several are valid\n# at once, so that one can be changed without a gap.\n")
	if kept {
		fmt.Fprintf(&b, "secrets: [%q]\n", secret)
	} else {
		fmt.Fprintf(&b, "# %s gives the secret; it goes before this key.\n# secrets: [\"file:/etc/orchestrate/secret\"]\n", SecretVariable)
	}
	b.WriteString("\n# More paths that deliveries come in by, each with its own secrets.\n" +
		"# sources:\n#   - {name: acme, path: /webhooks/acme, secrets: [\"file:/etc/orchestrate/acme\"]}\n")
	writeKeys(&b)
	b.WriteString(`
# What events start. Every route that wants an event gets it.
routes:
#  - name: hello
#    on: [push]                         # event, event.action, or "*"
#    filter:
#      repository: ["acme/*"]
#      base_branch: [main]
#    if: '!payload.deleted'             # CEL over event and payload
#    run:
#      command: [echo, "{{ .repository.full_name }} has {{ .after | trunc 7 }}"]
#      timeout: 30m
#  - name: mirror
#    on: ["*"]
#    forward: {url: "https://mirror.example/hook", secret: "file:/etc/orchestrate/mirror"}
`)
	return b.String()
}

// writeKeys writes scalars with their defaults, as comments. Those of a group
// stand together.
func writeKeys(b *strings.Builder) {
	var above []string
	for _, k := range Keys() {
		if k.Name == "database" {
			continue
		}
		groups := strings.Split(k.Name, ".")
		leaf := len(groups) - 1
		if leaf == 0 || len(above) == 0 || groups[0] != above[0] {
			b.WriteString("\n")
		}
		for i, group := range groups[:leaf] {
			if i >= len(above) || above[i] != group {
				fmt.Fprintf(b, "# %s%s:\n", strings.Repeat("  ", i), group)
			}
		}
		fmt.Fprintf(b, "# %s%s: %s  # %s\n", strings.Repeat("  ", leaf), groups[leaf], k.Default, k.Usage)
		above = groups[:leaf]
	}
}
