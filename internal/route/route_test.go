package route

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

var _ queue.Matcher = (*Table)(nil)

func compile(t testing.TB, specs ...Spec) *Table {
	t.Helper()
	for i := range specs {
		if specs[i].Name == "" {
			specs[i].Name = fmt.Sprint("r", i)
		}
	}
	table, err := Compile(specs)
	if err != nil {
		t.Fatalf("Compile: %v", err)
	}
	return table
}

// given is an event with the facts that intake reads, and its payload.
func given(t testing.TB, kind, body string) (*queue.Event, *queue.Payload) {
	t.Helper()
	eventType, action, _ := strings.Cut(kind, ".")
	e, p := event(t, eventType, []byte(body))
	if e.Action == "" {
		e.Action = queue.Text(action)
	}
	return e, p
}

func matched(table *Table, e *queue.Event, p *queue.Payload) (names []string) {
	for _, m := range table.Match(e, p) {
		names = append(names, m.Route)
	}
	return names
}

func TestMatchOn(t *testing.T) {
	opened := &queue.Event{EventType: "pull_request", Action: "opened", Repository: "acme/api"}
	push := &queue.Event{EventType: "push", Repository: "Acme/Web"}
	ping := &queue.Event{EventType: "ping"}
	tests := []struct {
		name  string
		spec  Spec
		event *queue.Event
		want  bool
	}{
		{"all", Spec{On: []string{"*"}}, ping, true},
		{"event", Spec{On: []string{"push"}}, push, true},
		{"event with any action", Spec{On: []string{"pull_request"}}, opened, true},
		{"event and action", Spec{On: []string{"pull_request.opened"}}, opened, true},
		{"other action", Spec{On: []string{"pull_request.closed"}}, opened, false},
		{"other event", Spec{On: []string{"push"}}, opened, false},
		{"no action where one is wanted", Spec{On: []string{"push.created"}}, push, false},
		{"prefix of an event", Spec{On: []string{"pull"}}, opened, false},
		{"second of several", Spec{On: []string{"issues", "push"}}, push, true},
		{
			"made-up action",
			Spec{On: []string{"repository_dispatch.on-demand.test"}},
			&queue.Event{EventType: "repository_dispatch", Action: "on-demand.test"}, true,
		},
		{"repository", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"acme/*"}}}, opened, true},
		{"repository in another case", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"aCME/w*"}}}, push, true},
		{"second repository", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"x/*", "*/api"}}}, opened, true},
		{"other repository", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"acme/api-*"}}}, opened, false},
		{"on and filter are ANDed", Spec{On: []string{"push"}, Filter: Filter{Repository: []string{"**"}}}, opened, false},
		{"no repository, filtered", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"**"}}}, ping, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { check(t, tt.spec, tt.event, &queue.Payload{}, tt.want) })
	}
}

// check wants Match, Wants and Explain to agree.
func check(t *testing.T, s Spec, e *queue.Event, p *queue.Payload, want bool) {
	t.Helper()
	table := compile(t, s)
	if got := len(table.Match(e, p)) == 1; got != want {
		t.Errorf("Match = %v, want %v", got, want)
	}
	if got, err := table.Wants("r0", e, p); got != want || err != nil {
		t.Errorf("Wants = %v, %v; want %v", got, err, want)
	}
	all := true
	for _, pr := range table.Explain("r0", e, p) {
		all = all && pr.Held
	}
	if all != want {
		t.Errorf("Explain says %v, want %v: %+v", all, want, table.Explain("r0", e, p))
	}
}

func TestMatchFilter(t *testing.T) {
	yes, no := true, false
	const pr = `"pull_request":{"base":{"ref":"main","repo":{"id":1}},"head":{"repo":{"id":1}},"user":{"login":"Octocat"},
		"author_association":"MEMBER","draft":false,"labels":[{"name":"agent"},{"name":"Area/API"}]}`
	tests := []struct {
		name   string
		event  string
		body   string
		filter Filter
		want   bool
	}{
		{"base branch", "pull_request", `{` + pr + `}`, Filter{BaseBranch: []string{"release/*", "main"}}, true},
		{"other base branch", "pull_request", `{` + pr + `}`, Filter{BaseBranch: []string{"release/*"}}, false},
		{"base branch that is no text", "pull_request", `{"pull_request":{"base":{"ref":7}}}`, Filter{BaseBranch: []string{"**"}}, false},
		{"base branch of a review", "pull_request_review", `{` + pr + `}`, Filter{BaseBranch: []string{"main"}}, true},
		{"branch of a push", "push", `{"ref":"refs/heads/release/1"}`, Filter{BaseBranch: []string{"release/*"}}, true},
		{"tag is no branch", "push", `{"ref":"refs/tags/main"}`, Filter{BaseBranch: []string{"**"}}, false},
		{"created branch", "create", `{"ref":"main","ref_type":"branch"}`, Filter{BaseBranch: []string{"main"}}, true},
		{"created tag", "create", `{"ref":"main","ref_type":"tag"}`, Filter{BaseBranch: []string{"main"}}, false},
		{"merge group", "merge_group", `{"merge_group":{"base_ref":"refs/heads/main"}}`, Filter{BaseBranch: []string{"main"}}, true},
		{
			"one of a run's pull requests", "check_run", `{"check_run":{"pull_requests":[{"base":{"ref":"x"}},{"base":{"ref":"main"}}]}}`,
			Filter{BaseBranch: []string{"main"}},
			true,
		},
		{"run of no pull request", "check_suite", `{"check_suite":{"head_branch":"main","pull_requests":[]}}`, Filter{BaseBranch: []string{"main"}}, false},
		{"labels", "pull_request", `{` + pr + `}`, Filter{Labels: []string{"area/*"}}, true},
		{"labels in another case", "pull_request", `{` + pr + `}`, Filter{Labels: []string{"AGENT"}}, true},
		{"no such label", "pull_request", `{` + pr + `}`, Filter{Labels: []string{"bug"}}, false},
		{"no labels", "issues", `{"issue":{"labels":[]}}`, Filter{Labels: []string{"*"}}, false},
		{"labels of the issue of a comment", "issue_comment", `{"issue":{"labels":[{"name":"bug"}]},"comment":{}}`, Filter{Labels: []string{"bug"}}, true},
		{"labels that are no list", "issues", `{"issue":{"labels":{"name":"bug"}}}`, Filter{Labels: []string{"bug"}}, false},
		{"author", "pull_request", `{` + pr + `}`, Filter{Author: []string{"octocat"}}, true},
		{"author of the comment, not of the issue", "issue_comment", `{"issue":{"user":{"login":"a"}},"comment":{"user":{"login":"b"}}}`, Filter{Author: []string{"a"}}, false},
		{"author of the review, not of the request", "pull_request_review", `{` + pr + `,"review":{"user":{"login":"b"}}}`, Filter{Author: []string{"octocat"}}, false},
		{"a bot", "push", `{"sender":{"login":"dependabot[bot]"}}`, Filter{Author: []string{"*[bot]"}}, true},
		{"author that is null", "issues", `{"issue":{"user":null}}`, Filter{Author: []string{"*"}}, false},
		{"association", "pull_request", `{` + pr + `}`, Filter{AuthorAssociation: []string{"OWNER", "MEMBER"}}, true},
		{
			"association of an outsider's comment", "issue_comment", `{"issue":{"author_association":"OWNER"},"comment":{"author_association":"NONE"}}`,
			Filter{AuthorAssociation: []string{"OWNER"}},
			false,
		},
		{"sender", "star", `{"sender":{"type":"Bot"}}`, Filter{SenderType: []string{"User"}}, false},
		{"sender of any event", "event_of_tomorrow", `{"sender":{"type":"User"}}`, Filter{SenderType: []string{"User"}}, true},
		{"no sender", "star", `{}`, Filter{SenderType: []string{"User"}}, false},
		{"conclusion", "workflow_job", `{"workflow_job":{"conclusion":"timed_out"}}`, Filter{Conclusion: []string{"failure", "timed_out"}}, true},
		{"no conclusion yet", "check_run", `{"check_run":{"conclusion":null}}`, Filter{Conclusion: []string{"failure"}}, false},
		{"added path", "push", `{"commits":[{"added":["src/a"]}]}`, Filter{Paths: []string{"src/**"}}, true},
		{"removed path of the second commit", "push", `{"commits":[{"added":["x"]},{"modified":[],"removed":["src/a/b"]}]}`, Filter{Paths: []string{"src/**"}}, true},
		{"other paths", "push", `{"commits":[{"added":["docs/a"],"modified":["README"]}]}`, Filter{Paths: []string{"src/**"}}, false},
		{"no commits", "push", `{"commits":[]}`, Filter{Paths: []string{"**"}}, false},
		{"draft wanted", "pull_request", `{"pull_request":{"draft":true}}`, Filter{Draft: &yes}, true},
		{"draft unwanted", "pull_request", `{"pull_request":{"draft":true}}`, Filter{Draft: &no}, false},
		{"no draft", "pull_request", `{` + pr + `}`, Filter{Draft: &no}, true},
		{"draft not told", "pull_request", `{"pull_request":{}}`, Filter{Draft: &no}, false},
		{"draft that is null", "pull_request", `{"pull_request":{"draft":null}}`, Filter{Draft: &no}, false},
		{"all keys", "pull_request", `{` + pr + `}`, Filter{BaseBranch: []string{"main"}, Labels: []string{"agent"}, Author: []string{"octocat"}, SkipForks: true}, true},
		{"one key of several fails", "pull_request", `{` + pr + `}`, Filter{BaseBranch: []string{"main"}, Labels: []string{"x"}, Author: []string{"octocat"}}, false},
		{"the last of members with one name", "push", `{"ref":"refs/heads/a","ref":"refs/heads/b"}`, Filter{BaseBranch: []string{"a"}}, false},
		{"names have case", "push", `{"Ref":"refs/heads/a"}`, Filter{BaseBranch: []string{"a"}}, false},
		{"pull request that is no object", "pull_request", `{"pull_request":[1]}`, Filter{BaseBranch: []string{"a"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, p := given(t, tt.event, tt.body)
			check(t, Spec{On: []string{tt.event}, Filter: tt.filter}, e, p, tt.want)
		})
	}
}

func TestSkipForks(t *testing.T) {
	pull := func(head, base string) string {
		return fmt.Sprintf(`{"head":{"repo":%s},"base":{"repo":%s}}`, head, base)
	}
	const one, two = `{"id":1}`, `{"id":2}`
	tests := []struct {
		name  string
		event string
		body  string
		want  bool
	}{
		{"own branch", "pull_request", `{"pull_request":` + pull(one, one) + `}`, true},
		{"fork", "pull_request", `{"pull_request":` + pull(two, one) + `}`, false},
		{"deleted fork", "pull_request", `{"pull_request":` + pull(`null`, one) + `}`, false},
		{"head without id", "pull_request", `{"pull_request":` + pull(`{}`, one) + `}`, false},
		{"both without id", "pull_request", `{"pull_request":` + pull(`{}`, `{}`) + `}`, false},
		{"both null", "pull_request", `{"pull_request":` + pull(`null`, `null`) + `}`, false},
		{"ids that are null", "pull_request", `{"pull_request":` + pull(`{"id":null}`, `{"id":null}`) + `}`, false},
		{"ids that are texts", "pull_request", `{"pull_request":` + pull(`{"id":"1"}`, `{"id":"1"}`) + `}`, false},
		{"no pull request", "pull_request", `{}`, false},
		{"review of a fork", "pull_request_review", `{"pull_request":` + pull(two, one) + `}`, false},
		{"comment on an own branch", "pull_request_review_comment", `{"pull_request":` + pull(one, one) + `}`, true},
		{"check of an own branch", "check_run", `{"check_run":{"pull_requests":[` + pull(one, one) + `]}}`, true},
		{"check of two, one a fork", "check_run", `{"check_run":{"pull_requests":[` + pull(one, one) + `,` + pull(two, one) + `]}}`, false},
		{"check of two, one unreadable", "check_run", `{"check_run":{"pull_requests":[` + pull(one, one) + `,{}]}}`, false},
		{"check of none", "check_suite", `{"check_suite":{"pull_requests":[]}}`, false},
		{"run of the repository's", "workflow_run", `{"repository":{"id":1},"workflow_run":{"head_repository":{"id":1},"pull_requests":[]}}`, true},
		{"run of a fork", "workflow_run", `{"repository":{"id":1},"workflow_run":{"head_repository":{"id":2},"pull_requests":[]}}`, false},
		{"run of a deleted fork", "workflow_run", `{"repository":{"id":1},"workflow_run":{"head_repository":null,"pull_requests":[]}}`, false},
		{"run of an unknown repository", "workflow_run", `{"repository":{"id":1},"workflow_run":{"pull_requests":[` + pull(one, one) + `]}}`, false},
		{"run of a fork's request", "workflow_run", `{"repository":{"id":1},"workflow_run":{"head_repository":{"id":1},"pull_requests":[` + pull(two, one) + `]}}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, p := given(t, tt.event, tt.body)
			check(t, Spec{On: []string{tt.event}, Filter: Filter{SkipForks: true}}, e, p, tt.want)
		})
	}
}

// Rules of other types and of all types keep the order of the configuration.
func TestMatchOrder(t *testing.T) {
	table := compile(t,
		Spec{Name: "push", On: []string{"push"}}, Spec{Name: "all", On: []string{"*"}},
		Spec{Name: "both", On: []string{"issues", "push"}}, Spec{Name: "issues", On: []string{"issues.opened"}},
		Spec{Name: "last", On: []string{"star", "*"}})
	for kind, want := range map[string][]string{
		"push":          {"push", "all", "both", "last"},
		"issues.opened": {"all", "both", "issues", "last"},
		"issues.closed": {"all", "both", "last"},
		"ping":          {"all", "last"},
	} {
		e, p := given(t, kind, `{}`)
		if diff := cmp.Diff(want, matched(table, e, p)); diff != "" {
			t.Errorf("Match of %s (-want +got):\n%s", kind, diff)
		}
	}
	if got := compile(t, Spec{On: []string{"push"}}).Match(&queue.Event{EventType: "star"}, nil); got != nil {
		t.Errorf("Match of an event that no route is for = %v, want none", got)
	}
}

func TestMatchFormBody(t *testing.T) {
	p := &queue.Payload{
		Headers: map[string]string{"Content-Type": queue.FormContentType},
		Body:    []byte("payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D"),
	}
	check(t, Spec{On: []string{"push"}, Filter: Filter{BaseBranch: []string{"main"}}, If: `payload.ref == "refs/heads/main"`},
		&queue.Event{EventType: "push"}, p, true)
}

// One rule that can't be told does not keep the others from being asked, and
// one whose cheaper predicates fail does not look into the payload.
func TestMatchErrors(t *testing.T) {
	table := compile(t,
		Spec{Name: "filter", On: []string{"push"}, Filter: Filter{BaseBranch: []string{"main"}}},
		Spec{Name: "condition", On: []string{"push"}, If: "payload.x"},
		Spec{Name: "other", On: []string{"push"}, Filter: Filter{Repository: []string{"x/y"}}, If: "payload.x"},
		Spec{Name: "plain", On: []string{"push"}})
	broken := &queue.Payload{Headers: map[string]string{"Content-Type": queue.FormContentType}, Body: []byte("nothing")}
	got := table.Match(&queue.Event{EventType: "push", Repository: "acme/api"}, broken)
	var told []string
	for _, m := range got {
		told = append(told, fmt.Sprint(m.Route, ": ", m.Err))
	}
	want := []string{
		"filter: filter.base_branch: form body: 0 fields named payload, want 1",
		"condition: if: form body: 0 fields named payload, want 1",
		"plain: <nil>",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("Match (-want +got):\n%s", diff)
	}
	panics := table.Match(&queue.Event{EventType: "push", Repository: "acme/api"}, nil)
	if len(panics) != 3 || panics[0].Err == nil || panics[1].Err == nil || panics[2].Err != nil {
		t.Errorf("Match with predicates that panic = %v, want errors of two, and the third", panics)
	}
	for _, p := range table.Explain("condition", &queue.Event{EventType: "push"}, nil)[1:] {
		if p.Held || p.Error == "" {
			t.Errorf("Explain of a predicate that panics = %+v, want an error", p)
		}
	}
}

// What one match keeps is not another's.
func TestMatchIsSafeForConcurrentUse(t *testing.T) {
	table := compile(t, Spec{On: []string{"push"}, Filter: Filter{BaseBranch: []string{"b*"}}, If: `payload.ref.endsWith(payload.end) && payload.list.exists(n, n == payload.n)`})
	var all sync.WaitGroup
	for i := range 8 {
		e, p := given(t, "push", fmt.Sprintf(`{"ref":"refs/heads/b%d","end":"%d","n":%d,"list":[1,%d]}`, i, i, i, i))
		all.Go(func() {
			for range 200 {
				if held, err := table.Wants("r0", e, p); !held || err != nil {
					t.Errorf("Wants of %d = %v, %v; want true", i, held, err)
					return
				}
				table.Explain("r0", e, p)
			}
		})
	}
	all.Wait()
}

func TestUnknownRoute(t *testing.T) {
	table := compile(t, Spec{Name: "a", On: []string{"*"}})
	if _, err := table.Wants("b", &queue.Event{}, nil); !errors.Is(err, queue.ErrUnknownRoute) {
		t.Errorf("Wants of an unknown route: %v, want ErrUnknownRoute", err)
	}
	if got := table.Explain("b", &queue.Event{}, nil); got != nil {
		t.Errorf("Explain of an unknown route = %v, want nothing", got)
	}
}

func TestCompileRefuses(t *testing.T) {
	on := func(items ...string) Spec { return Spec{On: items} }
	filter := func(f Filter, items ...string) Spec { return Spec{On: items, Filter: f} }
	yes := true
	tests := []struct {
		name string
		spec Spec
		want []string // each error, or its beginning
	}{
		{"no events", Spec{}, []string{"on: empty"}},
		{"empty event", on("push", ""), []string{`on[1]: "" is no event`}},
		{"capital", on("Push"), []string{`on[0]: "Push" is no event`}},
		{"hyphen", on("pull-request"), []string{`on[0]: "pull-request"`}},
		{"blank", on("push "), []string{`on[0]: "push "`}},
		{"no action behind the dot", on("issues."), []string{`on[0]: "issues."`}},
		{"no event before the dot", on(".opened"), []string{`on[0]: ".opened"`}},
		{"wildcard action", on("issues.*"), []string{`on[0]: "issues.*"`}},
		{"wildcard action of a dispatch", on("repository_dispatch.*"), []string{`on[0]: "repository_dispatch.*"`}},
		{"two dots", on("issues.opened.x"), []string{`on[0]: "issues.opened.x"`}},
		{"twice", on("push", "issues", "push"), []string{`on[2]: "push" stands in on[0] already`}},
		{"empty list", filter(Filter{Repository: []string{}}, "*"), []string{"filter.repository: empty"}},
		{"second pattern", filter(Filter{Repository: []string{"acme/*", "acme"}}, "*"), []string{`filter.repository[1]: "acme" matches no repository`}},
		{"pattern twice", filter(Filter{Labels: []string{"bug", "Bug"}}, "issues"), []string{`filter.labels[1]: "Bug" stands in the list already`}},
		{
			"several", filter(Filter{Labels: []string{""}, Conclusion: []string{"failed"}}, "Push", "check_run", "issues"),
			[]string{`on[0]: "Push"`, `filter.conclusion[0]: "failed"`, `filter.labels[0]: ""`},
		},
		{
			"base branch of issues", filter(Filter{BaseBranch: []string{"main"}}, "issues"),
			[]string{"filter.base_branch: no event of type issues has it, so that the route could never start; these have it: check_run, check_suite, create"},
		},
		{
			"paths of pull requests", filter(Filter{Paths: []string{"src/**"}}, "pull_request.opened", "issues"),
			[]string{"filter.paths: no event of type pull_request, issues has it, so that the route could never start; these have it: push"},
		},
		{"forks of pushes", filter(Filter{SkipForks: true}, "push"), []string{"filter.skip_forks: no event of type push has it"}},
		{"draft of pushes", filter(Filter{Draft: &yes}, "push"), []string{"filter.draft: no event of type push has it"}},
		{"condition", Spec{On: []string{"push"}, If: "payload."}, []string{"if: 1:9: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile([]Spec{{Name: "fine", On: []string{"*"}}, {Name: "bad", On: tt.spec.On, Filter: tt.spec.Filter, If: tt.spec.If}})
			joined, ok := err.(interface{ Unwrap() []error })
			if !ok {
				t.Fatalf("Compile error = %v, want several joined", err)
			}
			errs := joined.Unwrap()
			if len(errs) != len(tt.want) {
				t.Fatalf("Compile error = %v, want %d: %q", err, len(tt.want), tt.want)
			}
			for i, err := range errs {
				var re *RouteError
				if !errors.As(err, &re) || re.Index != 1 || re.Route != "bad" || !strings.HasPrefix(re.Err.Error(), tt.want[i]) {
					t.Errorf("error %d = %v, want of route bad: %s", i, err, tt.want[i])
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		name string
		spec Spec
		want []string
	}{
		{"nothing odd", Spec{On: []string{"*"}, Filter: Filter{Paths: []string{"src/**"}}}, nil},
		{"unknown event", Spec{On: []string{"pull_requests"}}, []string{`on[0]: "pull_requests" is no event that is known here; did you mean pull_request?`}},
		{"event of tomorrow", Spec{On: []string{"quantum_leap"}}, []string{`on[0]: "quantum_leap" is no event that is known here`}},
		{
			"unknown action",
			Spec{On: []string{"pull_request.open"}},
			[]string{`on[0]: pull_request has no action "open" that is known here; did you mean opened?`},
		},
		{"event without actions", Spec{On: []string{"push.created"}}, []string{`on[0]: push has no actions, so that "push.created" would never come`}},
		{"made-up action", Spec{On: []string{"repository_dispatch.deploy-now"}}, nil},
		{"said before", Spec{On: []string{"push", "issues", "issues.opened"}}, []string{`on[2]: "issues.opened" is among what stands before it`}},
		{
			"fact that one event lacks",
			Spec{On: []string{"pull_request", "push"}, Filter: Filter{SkipForks: true}},
			[]string{"filter.skip_forks: no event of type push has it, so that none starts this route"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := compile(t, tt.spec).Warnings()
			if len(got) != len(tt.want) {
				t.Fatalf("Warnings = %q, want %q", got, tt.want)
			}
			for i, w := range got {
				if w.Route != "r0" || !strings.HasPrefix(w.Field+": "+w.Text, tt.want[i]) {
					t.Errorf("warning %d = %q, want of r0: %s", i, w, tt.want[i])
				}
			}
		})
	}
}

func FuzzCompileOn(f *testing.F) {
	for _, s := range []string{"*", "push", "pull_request.opened", "a.b.c", ".", "", "Push", "repository_dispatch.a-b"} {
		f.Add(s)
	}
	valid := regexp.MustCompile(`^([a-z0-9_]+(\.[a-z0-9_]+)?|\*)$`)
	f.Fuzz(func(t *testing.T, item string) {
		table, err := Compile([]Spec{{Name: "r", On: []string{item}}})
		dispatch := strings.HasPrefix(item, "repository_dispatch.")
		if want := valid.MatchString(item) && !strings.Contains(item, "\n"); (err == nil) != want && !dispatch {
			t.Fatalf("Compile(on: %q) error = %v, want valid %v", item, err, want)
		}
		if err != nil {
			return
		}
		eventType, action, _ := strings.Cut(item, ".")
		if ok, err := table.Wants("r", &queue.Event{EventType: eventType, Action: queue.Text(action)}, nil); !ok || err != nil {
			t.Errorf("%q does not match the event that it names: %v, %v", item, ok, err)
		}
	})
}

func TestMatchAllocatesLittle(t *testing.T) {
	table := compile(t, Spec{On: []string{"push", "pull_request.opened"}, Filter: Filter{Repository: []string{"other/*", "acme/api-*"}}})
	e := &queue.Event{EventType: "pull_request", Action: "opened", Repository: "Acme/Api-Gateway"}
	n := testing.AllocsPerRun(100, func() {
		if len(table.Match(e, nil)) != 1 {
			t.Fatal("no match")
		}
	})
	if n > 3 {
		t.Errorf("Match allocates %v times, want 3 at most", n)
	}
}
