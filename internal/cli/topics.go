package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"orchestrate/internal/config"
)

// newTopics are the pages of help that belong to no command.
func newTopics() []*cobra.Command {
	return []*cobra.Command{
		newExitCodesHelp(),
		{Use: "environment", Short: "The variables that are read", Long: environmentHelp()},
		{Use: "filters", Short: "What a route can ask of an event", Long: filtersHelp()},
		{Use: "templates", Short: "What the arguments of a command can take from an event", Long: templatesHelp()},
	}
}

// variable is one of the environment.
type variable struct{ name, initial, usage string }

// variables lists those that the program reads.
func variables() []variable {
	all := []variable{
		{"ORCHESTRATE_CONFIG", "", "configuration file; --config goes before it"},
		{config.SecretVariable, "", "secrets of webhooks, one a line; replaces those that the file refers to"},
	}
	for _, k := range config.Keys() {
		all = append(all, variable{k.Env(), k.Default, k.Usage})
	}
	return append(all,
		variable{"XDG_CONFIG_HOME", "~/.config", "its orchestrate/config.yaml is read"},
		variable{"STATE_DIRECTORY", "", "where the database and the secret are, under systemd"},
		variable{"XDG_STATE_HOME", "~/.local/state", "its orchestrate/ is where they are elsewhere"},
		variable{"HOME", "", "where those two defaults are"},
		variable{"PATH", "", "where commands of routes are looked for"},
		variable{"TMPDIR", "", "where SQLite sorts what is too much for memory"},
		variable{"NO_COLOR", "", "not empty: no colours; --color goes before all of these"},
		variable{"CLICOLOR_FORCE", "", "neither empty nor 0: colours in pipes and files, too"},
		variable{"TERM", "", "dumb: no colours"},
	)
}

func environmentHelp() string {
	var b strings.Builder
	b.WriteString(`Key a.b of the configuration has the variable ORCHESTRATE_A_B. A flag goes before
it, and it goes before the file. Set but empty, a variable counts as not set,
but for ` + config.SecretVariable + `, which is then a mistake.

`)
	for _, v := range variables() {
		b.WriteString("  " + v.name)
		if v.initial != "" {
			b.WriteString(" (" + v.initial + ")")
		}
		b.WriteString("\n      " + v.usage + "\n")
	}
	b.WriteString(`
A command of a route gets none of these but what pass_env names: PATH, HOME, USER,
LOGNAME, LANG, LC_ALL, TZ and TMPDIR, if it names nothing.
`)
	return b.String()
}

// filterKey is one of a route's filters, as the topic tells of it.
type filterKey struct{ key, example, meaning, events string }

func filterKeys() []filterKey {
	const talk, reviews = "issues, pull requests, comments, reviews, discussions", "pull requests and their reviews, checks"
	return []filterKey{
		{"repository", `["acme/*"]`, "globs over owner/name, whatever the case", "what has a repository"},
		{"sender_type", "[User]", "what caused the event: User, Bot", "what has a sender"},
		{"conclusion", "[failure, timed_out]", "how it ended", "check_run, check_suite, workflow_job, workflow_run"},
		{"base_branch", `[main, "release/*"]`, "globs over the branch that it is for", "push, create, delete, merge_group, " + reviews},
		{"draft", "false", "only what is ready, or with true only drafts", "pull requests and what is said on them, release"},
		{"skip_forks", "true", "not what may come from another repository than it is for", reviews},
		{"author", `["*[bot]"]`, "globs over who wrote it, not who did something to it", talk + ", push, release, workflow_run"},
		{"author_association", "[OWNER, MEMBER]", "what the author is to the repository", talk},
		{"labels", "[bug]", "globs over the names of its labels", "issues, pull requests, discussions, and what is said on them"},
		{"paths", `["src/**"]`, "globs over the files that were changed", "push"},
	}
}

func filtersHelp() string {
	var b strings.Builder
	b.WriteString(`A route wants an event if one item of "on" fits, and every filter, and "if".

  on: [push, pull_request.opened]     an event, or an event and its action; "*"
  filter:                             all keys must fit, of each one value
    repository: ["acme/*"]
    base_branch: [main]
  if: 'payload.number > 100'          a condition in CEL

An event that does not have what a key asks for does not fit. In a glob * stands
for any characters but the slash, ** for any, ? for one but the slash; nothing
else is special.

`)
	for _, k := range filterKeys() {
		fmt.Fprintf(&b, "  %s  %s\n      %s\n      (%s)\n", k.key, k.example, k.meaning, k.events)
	}
	b.WriteString(`
Checks are check_run, check_suite and workflow_run, of pull requests.

"if" has event.type, action, repository, sender, ref, number, source and
received_at, and all of payload. has(payload.label) asks whether there is such a
key. What can't be evaluated becomes a dead letter, never a match.

See what would happen, and why: orchestrate routes test --help
`)
	return b.String()
}

// templateFunction is one that a template may call, with an example of it.
type templateFunction struct{ name, example, meaning string }

func templateFunctions() []templateFunction {
	return []templateFunction{
		{"default", `{{ .base_ref | default "none" }}`, "what to use where it is null, empty or not there"},
		{"json", `{{ .labels | json }}`, "as JSON, in one line"},
		{"trunc", `{{ .after | trunc 7 }}`, "the first characters; below 0 the last"},
		{"base", `{{ .ref | base }}`, "main of refs/heads/main; the last part of a path"},
		{"lower", `{{ .repository.full_name | lower }}`, "in small letters"},
		{"replace", `{{ .ref | replace "/" "-" }}`, "each of the first by the second"},
		{"event", `{{ event.delivery_id }}`, "a fact of the event or the attempt"},
	}
}

func templatesHelp() string {
	var b strings.Builder
	b.WriteString(`Arguments of a command are templates of Go's text/template. The dot is the
payload:

  command: [agent, "--repo={{ .repository.full_name }}", "--pr={{ .number }}"]

What a template yields stays one argument, whatever is in it: no shell reads it.
Never put it into the text of a script; hand it over as an argument.

`)
	for _, f := range templateFunctions() {
		fmt.Fprintf(&b, "  %-36s  %s\n", f.example, f.meaning)
	}
	b.WriteString(`
event has id, source, delivery_id, event_type, action, repository, sender, ref,
number, hook_id, received_at, route, attempt and idempotency_key. The functions
of text/template are there, too: eq, and, or, not, len, index, printf.

A key that is not there, null, an object or a list is no argument, and the job
becomes a dead letter; default and json help. Nor is what begins with a dash
where the template begins the argument: write --title={{ .title }}, or set
allow_leading_dash.

See what would run: orchestrate routes test --help
`)
	return b.String()
}
