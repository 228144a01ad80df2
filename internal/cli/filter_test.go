package cli

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"orchestrate/internal/queue"
)

// aNow is 2026-10-24T12:00:00Z.
const aNow queue.Time = 1792843200_000

func parseFilter(t *testing.T, args ...string) (queue.Filter, error) {
	t.Helper()
	a := &App{Out: bufio.NewWriter(io.Discard), Err: io.Discard}
	root := newRootCmd(a)
	cmd, _, err := root.Find([]string{"events", "requeue-dead"})
	if err != nil {
		t.Fatal(err)
	}
	o := &filterOptions{}
	cmd.ResetFlags()
	addFilterFlags(a, cmd, o, 0, "limit", "all")
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return o.parse(cmd.Flags(), aNow)
}

func TestFilterFlags(t *testing.T) {
	for _, tt := range []struct {
		args string
		want queue.Filter
	}{
		{"", queue.Filter{}},
		{"--status failed", queue.Filter{Status: queue.StatusFailed}},
		{"--event push", queue.Filter{EventType: "push"}},
		{"--event pull_request.opened", queue.Filter{EventType: "pull_request", Action: "opened"}},
		{"--event pull_request.opened --action opened", queue.Filter{EventType: "pull_request", Action: "opened"}},
		{"--event pull_request --action opened", queue.Filter{EventType: "pull_request", Action: "opened"}},
		{"--action opened", queue.Filter{Action: "opened"}},
		{
			"--repo acme/api --sender octocat --route deploy --delivery 72d3 --source github --cursor 7",
			queue.Filter{Repository: "acme/api", Sender: "octocat", Route: "deploy", Delivery: "72d3", Source: "github", Before: 7},
		},
		{"--since 1d12h", queue.Filter{Since: aNow - 36*3600_000}},
		{"--since 2026-10-24T03:00:00+02:00", queue.Filter{Since: aNow - 11*3600_000}},
		{"--since 2h --until 1h", queue.Filter{Since: aNow - 2*3600_000, Until: aNow - 3600_000}},
	} {
		got, err := parseFilter(t, strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: got other filter (-want +got):\n%s", tt.args, diff)
		}
	}
}

func TestFilterFlagsRefuse(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--status", "dead"}, `unknown status "dead": want one of pending`},
		{[]string{"--event", ".opened"}, `event ".opened": want a type, or type.action`},
		{[]string{"--event", "push.a", "--action", "b"}, "contradict"},
		{[]string{"--repo", ""}, "--repo is empty"},
		{[]string{"--repo", "acme/\u200bapi"}, `--repo "acme/\u200bapi": no event has that`},
		{[]string{"--delivery", "72d3\xff"}, `--delivery "72d3\xff": no event has that`},
		{[]string{"--event", "push.\x00"}, `--event "push.\x00": no event has that`},
		{[]string{"--since", "30x"}, `no unit "x"`},
		{[]string{"--since", "-1d"}, "it can't be negative"},
		{[]string{"--since", "30"}, `add a unit to "30"`},
		{[]string{"--since", "yesterday"}, "a number is missing"},
		{[]string{"--since", "290w", "--until", "3000w"}, "--until"},
		{[]string{"--since", "1969-01-01T00:00:00Z"}, "want a time after 1970"},
		{[]string{"--until", "9999-12-31T23:59:59-23:59"}, "before 10000"},
		{[]string{"--until", "3000w"}, "that is before 1970"},
		{[]string{"--since", "1h", "--until", "1h"}, "nothing can match"},
		{[]string{"--limit", "-1"}, "--limit -1: want at least 1"},
		{[]string{"--cursor", "0"}, "--cursor 0: want the id of an event"},
	} {
		_, err := parseFilter(t, tt.args...)
		if exitCodeOf(err) != 2 || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want a usage error with %q", tt.args, err, tt.want)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"90m", "2w", "1d12h", "30", "-1d", "2026-10-24T03:00:00Z", "0001-01-01T00:00:00Z", "99999w", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTime("--since", s, aNow)
		switch {
		case err != nil && exitCodeOf(err) != 2:
			t.Errorf("%q: %v is no usage error", s, err)
		case err == nil && (got < 0 || got == 0 && s != ""):
			t.Errorf("%q: got %d, which no event can have", s, got)
		}
	})
}

// FuzzFilter: what is accepted can be told to another command in words, and means
// the same there; what is not is a mistake of whoever wrote it.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{
		"", "--status failed", "--event push", "--event pull_request.opened --action opened", "--event .opened", "--event a.b.c",
		"--repo acme/api --sender octocat[bot] --route deploy --delivery 72d3 --source github --cursor 7 --limit 3 --all",
		"--since 1d12h --until 90m", "--since 2026-10-24T03:00:00+02:00 --until 2026-10-24T03:00:00.5Z", "--since 1h --until 1h",
		"--until 9999-12-31T23:59:59-23:59", "--repo it's --sender --status", "--action \\$(id)`id`;\"", "--sender=\u202eevil", "--sender é",
		"--delivery \xff", "--cursor -1", "--limit 9999999999999999999", "--since=", "--all=false", "--action '", "-- --all",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		first, flags, err := parseWords(strings.Split(line, " "))
		if flags == nil {
			return // no flag of ours, or no value for it: the library's to say
		}
		if err != nil {
			if exitCodeOf(err) != 2 {
				t.Errorf("%q: %v is no usage error", line, err)
			}
			return
		}
		told := words(flags, first.filter, func(string) bool { return true })
		for i := range told {
			told[i] = asShellReads(told[i])
		}
		second, _, err := parseWords(told)
		if diff := cmp.Diff(first, second, cmp.AllowUnexported(meant{})); err != nil || diff != "" {
			t.Errorf("%q was told as %q, which is another filter: %v (-first +second):\n%s", line, told, err, diff)
		}
	})
}

// meant is what a command line asks for.
type meant struct {
	filter queue.Filter
	limit  int
	all    bool
}

func parseWords(args []string) (meant, *pflag.FlagSet, error) {
	o, flags := &filterOptions{}, pflag.NewFlagSet("", pflag.ContinueOnError)
	o.define(flags, 0, "limit", "all")
	if flags.Parse(args) != nil || flags.NArg() > 0 {
		return meant{}, nil, nil
	}
	q, err := o.parse(flags, aNow)
	return meant{q, o.limit, o.all}, flags, err
}

// asShellReads undoes the quotes of a word.
func asShellReads(word string) string {
	if inner, quoted := strings.CutPrefix(word, "'"); quoted {
		word = strings.ReplaceAll(strings.TrimSuffix(inner, "'"), `'\''`, "'")
	}
	return word
}
