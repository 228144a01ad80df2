package route

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/reference/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// overview is the table of events and keys.
func overview() string {
	var b strings.Builder
	events := map[string]bool{}
	keys := []string{}
	for i := range facts {
		if facts[i].any == nil {
			keys = append(keys, facts[i].key)
		}
		for _, e := range facts[i].events() {
			events[e] = true
		}
	}
	slices.Sort(keys)
	fmt.Fprintf(&b, "| Event | `%s` |\n|---|%s\n", strings.Join(keys, "` | `"), strings.Repeat("---|", len(keys)))
	for _, e := range slices.Sorted(maps.Keys(events)) {
		fmt.Fprintf(&b, "| `%s` |", e)
		for _, k := range keys {
			i := slices.IndexFunc(facts, func(f fact) bool { return f.key == k })
			b.WriteString(map[bool]string{true: " yes |", false: " |"}[facts[i].of(e) != nil])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// places is the table of where each key looks.
func places() string {
	var b strings.Builder
	b.WriteString("| Key | Event | Looks at |\n|---|---|---|\n")
	for _, f := range slices.SortedFunc(slices.Values(facts), func(a, b fact) int { return strings.Compare(a.key, b.key) }) {
		if f.any != nil {
			fmt.Fprintf(&b, "| `%s` | every one | %s |\n", f.key, f.any.where)
			continue
		}
		byPlace := map[string][]string{}
		for _, e := range f.events() {
			byPlace[f.from[e].where] = append(byPlace[f.from[e].where], e)
		}
		for _, where := range slices.Sorted(maps.Keys(byPlace)) {
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", f.key, strings.Join(byPlace[where], "` `"), where)
		}
	}
	return b.String()
}

func TestDocsHaveFacts(t *testing.T) {
	text := page(t, "filters.md")
	for name, table := range map[string]string{"overview": overview(), "places": places()} {
		if !strings.Contains(text, table) {
			t.Errorf("docs/reference/filters.md has not this %s:\n%s", name, table)
		}
	}
	for _, x := range []syntax{conclusions, associations} {
		if err := x.check(""); err != nil {
			_, words, _ := strings.Cut(err.Error(), "want one of ")
			if row := "`" + strings.ReplaceAll(words, ", ", "` `") + "`"; !strings.Contains(text, row) {
				t.Errorf("docs/reference/filters.md has not the words %s", row)
			}
		}
	}
}

func TestDocsHaveConditions(t *testing.T) {
	text := page(t, "conditions.md")
	for name := range eventFields {
		if !strings.Contains(text, "| `event."+name+"` |") {
			t.Errorf("docs/reference/conditions.md has no row of event.%s", name)
		}
	}
	for _, limit := range []string{fmt.Sprint(maxCondition>>10, " KiB"), fmt.Sprint(maxNesting, " levels"), "10,000", "250,000 steps"} {
		if !strings.Contains(text, limit) {
			t.Errorf("docs/reference/conditions.md does not have the limit %s", limit)
		}
	}
}

// cookbook has for the beginning of each condition of the page the event, a
// payload that it holds for and one that it does not.
var cookbook = []struct{ begins, event, yes, no string }{
	{`!payload.pull_request.draft && `, "pull_request", `{"pull_request":{"draft":false,"changed_files":50}}`, `{"pull_request":{"draft":false,"changed_files":51}}`},
	{`payload.label.name`, "issues.labeled", `{"label":{"name":"agent"}}`, `{"label":{"name":"bug"},"issue":{"labels":[{"name":"agent"}]}}`},
	{
		`payload.pull_request.merged`, "pull_request.closed", `{"pull_request":{"merged":true,"base":{"ref":"main"}},"repository":{"default_branch":"main"}}`,
		`{"pull_request":{"merged":false,"base":{"ref":"main"}},"repository":{"default_branch":"main"}}`,
	},
	{
		`payload.review.state`, "pull_request_review.submitted", `{"review":{"state":"changes_requested","body":"No.","user":{"type":"User"}}}`,
		`{"review":{"state":"changes_requested","body":null,"user":{"type":"User"}}}`,
	},
	{
		`has(payload.issue.pull_request)`, "issue_comment.created", `{"issue":{"pull_request":{}},"comment":{"body":"/fix it","author_association":"MEMBER"}}`,
		`{"issue":{"pull_request":{}},"comment":{"body":"/fixture","author_association":"MEMBER"}}`,
	},
	{
		`payload.pull_request.author_association`, "pull_request", `{"pull_request":{"author_association":"NONE","user":{"login":"renovate[bot]"}}}`,
		`{"pull_request":{"author_association":"CONTRIBUTOR","user":{"login":"someone"}}}`,
	},
	{
		`has(payload.changes.base)`, "pull_request.edited", `{"changes":{"base":{"ref":{"from":"main"}}},"pull_request":{"base":{"ref":"next"}}}`,
		`{"changes":{"title":{"from":"x"}},"pull_request":{"base":{"ref":"next"}}}`,
	},
	{
		`payload.workflow_run.conclusion`, "workflow_run.completed",
		`{"workflow_run":{"conclusion":"failure","event":"push","head_branch":"main"},"repository":{"default_branch":"main"}}`,
		`{"workflow_run":{"conclusion":"failure","event":"pull_request","head_branch":"main"},"repository":{"default_branch":"main"}}`,
	},
	{
		`payload.check_run.conclusion`, "check_run.completed", `{"check_run":{"conclusion":"failure","app":{"slug":"github-actions"}}}`,
		`{"check_run":{"conclusion":null,"app":{"slug":"github-actions"}}}`,
	},
	{
		`payload.ref == "refs/heads/"`, "push", `{"ref":"refs/heads/trunk","deleted":false,"repository":{"default_branch":"trunk"}}`,
		`{"ref":"refs/heads/x","deleted":false,"repository":{"default_branch":"trunk"}}`,
	},
	{`payload.created`, "push", `{"created":true,"ref":"refs/tags/v1.20.3"}`, `{"created":true,"ref":"refs/tags/v1.20.3-rc1"}`},
	{
		`payload.commits.exists`, "push", `{"commits":[{"added":["docs/a"],"modified":[],"removed":["src/b"]}]}`,
		`{"commits":[{"added":["docs/a"],"modified":[],"removed":[]}]}`,
	},
	{`payload.head_commit`, "push", `{"head_commit":{"message":"Mend it"}}`, `{"head_commit":null}`},
	{`payload.issue.labels.size()`, "issues.opened", `{"issue":{"labels":[],"assignees":[]}}`, `{"issue":{"labels":[{}],"assignees":[]}}`},
	{`cel.bind(names`, "issues", `{"issue":{"labels":[{"name":"Bug"}]}}`, `{"issue":{"labels":[{"name":"bug"},{"name":"wontfix"}]}}`},
	{
		`payload.deployment_status.state`, "deployment_status", `{"deployment_status":{"state":"success"},"deployment":{"environment":"production"}}`,
		`{"deployment_status":{"state":"success"},"deployment":{"environment":"staging"}}`,
	},
	{`event.received_at`, "ping", `{}`, ``}, // Tuesday at 22:13, and the same at 10:13
}

func TestDocsCookbook(t *testing.T) {
	blocks := strings.Split(page(t, "conditions.md"), "```cel\n")[1:]
	if len(blocks) != len(cookbook) {
		t.Fatalf("the cookbook has %d conditions, the test %d", len(blocks), len(cookbook))
	}
	for i, tt := range cookbook {
		condition, _, _ := strings.Cut(blocks[i], "```")
		t.Run(tt.begins, func(t *testing.T) {
			if !strings.HasPrefix(condition, tt.begins) {
				t.Fatalf("condition = %s, want one that begins with %s", condition, tt.begins)
			}
			eventType, _, _ := strings.Cut(tt.event, ".")
			table := compile(t, Spec{On: []string{tt.event}, If: condition})
			if w := table.Warnings(); w != nil || !strings.Contains(page(t, "conditions.md"), "`"+eventType) && eventType != "ping" {
				t.Errorf("warnings of %s: %v", tt.event, w)
			}
			for body, want := range map[string]bool{tt.yes: true, tt.no: false} {
				e, p := given(t, tt.event, cmp.Or(body, "{}"))
				if tt.begins == "event.received_at" && want {
					e.ReceivedAt -= 12 * 3600 * 1000
				}
				if held, err := table.Wants("r0", e, p); held != want || err != nil {
					t.Errorf("of %s: %v, %v; want %v", body, held, err, want)
				}
			}
		})
	}
}
