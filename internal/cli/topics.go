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
		{Use: "templates", Short: "What arguments and URLs can take from an event", Long: templatesHelp()},
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

// topicRow is a word with what it means, the rest of it on further lines.
func topicRow(b *strings.Builder, width int, word string, meaning ...string) {
	for _, m := range meaning {
		fmt.Fprintf(b, "  %-*s  %s\n", width, word, m)
		word = ""
	}
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
type filterKey struct {
	key   string
	lines []string
}

func filterKeys() []filterKey {
	return []filterKey{
		{"repository", []string{`["acme/*"]: globs over owner/name, whatever the case`, "every event of a repository"}},
		{"base_branch", []string{
			`[main, "release/*"]: globs over the branch that it is for`,
			"pull requests and their reviews, checks, workflow runs, push",
		}},
		{"paths", []string{`["src/**"]: globs over the files that were changed`, "push"}},
		{"labels", []string{"[bug]: has one of these; issues, pull requests, discussions", "and what is said on them"}},
		{"author", []string{"[octocat]: who wrote it, not who did something to it", "issues, pull requests, comments, reviews, discussions"}},
		{"author_association", []string{"[OWNER, MEMBER, COLLABORATOR]: what the author is to the repository", "as author"}},
		{"conclusion", []string{"[failure, timed_out]", "check_run, check_suite, workflow_run, workflow_job"}},
		{"sender_type", []string{"[User], [Bot]: what caused the event", "every event with a sender"}},
		{"draft", []string{"false: pull requests that are ready", "pull requests and what is said on them"}},
		{"skip_forks", []string{"true: not what comes from another repository than it is for", "pull requests, reviews, checks, workflow runs"}},
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
for any characters but the slash, ** for any, ? for one but the slash.

`)
	for _, k := range filterKeys() {
		topicRow(&b, 18, k.key, k.lines...)
	}
	b.WriteString(`
"if" knows event (type, action, repository, sender, ref, number, source,
received_at) and payload, all of it. has(payload.label) asks whether there is
such a key. What can't be evaluated becomes a dead letter, never a match.

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
		topicRow(&b, 36, f.example, f.meaning)
	}
	b.WriteString(`
event has id, source, delivery_id, event_type, action, repository, sender, ref,
number, hook_id, received_at, route, attempt and idempotency_key. The functions
of text/template are there, too: eq, and, or, not, len, index, printf.

A key that is not there, null, an object or a list is no argument, and the job
becomes a dead letter; default and json help. Nor is what begins with a dash
where the template begins the argument: write --title={{ .title }}.

See what would run: orchestrate routes test --help
`)
	return b.String()
}
