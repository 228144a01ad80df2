package route

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

var _ queue.Matcher = (*Matcher)(nil)

func compile(t testing.TB, s Spec) *Matcher {
	t.Helper()
	m, err := Compile(s)
	if err != nil {
		t.Fatalf("Compile(%+v): %v", s, err)
	}
	return m
}

func TestMatch(t *testing.T) {
	opened := queue.Event{EventType: "pull_request", Action: "opened", Repository: "acme/api"}
	push := queue.Event{EventType: "push", Repository: "Acme/Web"}
	ping := queue.Event{EventType: "ping"}
	tests := []struct {
		name  string
		spec  Spec
		event queue.Event
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
		{"repository", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"acme/*"}}}, opened, true},
		{"repository in another case", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"aCME/w*"}}}, push, true},
		{"second repository", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"x/*", "*/api"}}}, opened, true},
		{"other repository", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"acme/api-*"}}}, opened, false},
		{"on and filter are ANDed", Spec{On: []string{"push"}, Filter: Filter{Repository: []string{"**"}}}, opened, false},
		{"no repository, filtered", Spec{On: []string{"*"}, Filter: Filter{Repository: []string{"**"}}}, ping, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := compile(t, tt.spec)
			got, err := m.Match(&tt.event, &queue.Payload{})
			if got != tt.want || err != nil {
				t.Errorf("Match = %v, %v; want %v", got, err, tt.want)
			}
			all := true
			for _, p := range m.Explain(&tt.event, &queue.Payload{}) {
				all = all && p.Held
			}
			if all != tt.want {
				t.Errorf("Explain says %v, want %v", all, tt.want)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	repository := func(patterns ...string) Spec {
		return Spec{On: []string{"*"}, Filter: Filter{Repository: append([]string{}, patterns...)}}
	}
	tests := []struct {
		name string
		spec Spec
		want string // part of the message
	}{
		{"no events", Spec{}, "on: empty"},
		{"empty event", Spec{On: []string{"push", ""}}, `on: ""`},
		{"capital", Spec{On: []string{"Push"}}, `on: "Push"`},
		{"hyphen", Spec{On: []string{"pull-request"}}, `on: "pull-request"`},
		{"blank", Spec{On: []string{"push "}}, `on: "push "`},
		{"no action behind the dot", Spec{On: []string{"issues."}}, `on: "issues."`},
		{"no event before the dot", Spec{On: []string{".opened"}}, `on: ".opened"`},
		{"wildcard action", Spec{On: []string{"issues.*"}}, `on: "issues.*"`},
		{"two dots", Spec{On: []string{"issues.opened.x"}}, `on: "issues.opened.x"`},
		{"empty list", repository(), "filter.repository: empty"},
		{"empty pattern", repository("acme/*", ""), `filter.repository: ""`},
		{"braces", repository("acme/{a,b}"), `filter.repository: "acme/{a,b}": '{'`},
		{"set", repository("acme/[ab]"), `"acme/[ab]": '['`},
		{"escape", repository(`acme/\*`), `'\\'`},
		{"negation", repository("!acme/x"), `'!'`},
		{"blank in a name", repository("acme/api "), `"acme/api ": ' '`},
		{"beyond ASCII", repository("acmé/api"), `'é'`},
		{"owner alone", repository("acme"), `"acme" matches no repository`},
		{"star alone", repository("*"), `"*" matches no repository`},
		{"too deep", repository("acme/*/x"), `"acme/*/x" matches no repository`},
		{"no name", repository("acme/"), `"acme/" matches no repository`},
		{"no owner", repository("/api"), `"/api" matches no repository`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Compile(tt.spec); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Compile error = %v, want one with %s", err, tt.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	m := compile(t, Spec{On: []string{"push", "issues.opened"}, Filter: Filter{Repository: []string{"acme/*"}}})
	got := m.Explain(&queue.Event{EventType: "issues", Action: "closed", Repository: "acme/api"}, &queue.Payload{})
	want := []Predicate{
		{Name: "on", Wanted: []string{"push", "issues.opened"}, Actual: "issues.closed"},
		{Name: "filter.repository", Wanted: []string{"acme/*"}, Actual: "acme/api", Held: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
}

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"acme/*", []string{"acme/api", "ACME/Api", "acme/"}, []string{"acme", "acme/a/b", "xacme/api"}},
		{"acme/api-*", []string{"acme/api-x", "acme/api-"}, []string{"acme/api", "acme/xapi-y"}},
		{"*/api", []string{"acme/api", "x/API"}, []string{"acme/api2", "a/b/api"}},
		{"*/*-api", []string{"a/b-api", "a/b-api-api"}, []string{"a/api", "a/b-apis"}},
		{"**", []string{"acme/api", "a/b/c", "x"}, nil},
		{"**api", []string{"acme/api", "api", "a/b/xapi"}, []string{"acme/apis"}},
		{"**/a*z", []string{"x/az", "x/y/abz"}, []string{"x/ab/z", "az"}},
		{"acme/ap?", []string{"acme/api"}, []string{"acme/ap", "acme/apis"}},
		{"acme?api**", nil, []string{"acme/api"}},
		{"acme/api", []string{"acme/api", "Acme/API"}, []string{"acme/apix", "acme/ap"}},
	}
	for _, tt := range tests {
		t.Run(tt.pattern, func(t *testing.T) {
			g, err := compileGlob(tt.pattern)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.yes {
				if !g.match(s) {
					t.Errorf("%q does not match %q, want a match", tt.pattern, s)
				}
			}
			for _, s := range tt.no {
				if g.match(s) {
					t.Errorf("%q matches %q, want none", tt.pattern, s)
				}
			}
		})
	}
}

// FuzzGlob compares with a regular expression that says the same.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{
		{"acme/*", "acme/api"},
		{"**", "a/b"},
		{"**/a*z", "x/y/abz"},
		{"*/*-api", "a/b-api-api"},
		{"**a*b?c", "xa/abxc"},
		{"*a/b*c**", "a/ba/bc"},
		{"***", "/"},
		{"acme/{a,b}", "acme/a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 100 || len(s) > queue.MaxText {
			return
		}
		for i := range len(s) {
			if s[i] >= 0x80 || s[i] == '\n' {
				return // a regular expression folds and counts those in another way
			}
		}
		g, err := compileGlob(pattern)
		if err != nil {
			if strings.Trim(pattern, "abcXYZ019._-*") == "/" && !strings.HasPrefix(pattern, "/") && !strings.HasSuffix(pattern, "/") {
				t.Fatalf("compileGlob(%q): %v, want none", pattern, err)
			}
			return
		}
		var re strings.Builder
		for rest := pattern; rest != ""; {
			switch {
			case strings.HasPrefix(rest, "**"):
				re.WriteString(".*")
				rest = rest[2:]
				continue
			case rest[0] == '*':
				re.WriteString("[^/]*")
			case rest[0] == '?':
				re.WriteString("[^/]")
			default:
				re.WriteString(regexp.QuoteMeta(rest[:1]))
			}
			rest = rest[1:]
		}
		want := regexp.MustCompile(`^(?is:` + re.String() + `)$`).MatchString(s)
		if got := g.match(s); got != want {
			t.Errorf("glob %q on %q = %v, want %v", pattern, s, got, want)
		}
	})
}

func FuzzCompileOn(f *testing.F) {
	for _, s := range []string{"*", "push", "pull_request.opened", "a.b.c", ".", "", "Push"} {
		f.Add(s)
	}
	valid := regexp.MustCompile(`^([a-z0-9_]+(\.[a-z0-9_]+)?|\*)$`)
	f.Fuzz(func(t *testing.T, item string) {
		m, err := Compile(Spec{On: []string{item}})
		if want := valid.MatchString(item) && !strings.Contains(item, "\n"); (err == nil) != want {
			t.Fatalf("Compile(on: %q) error = %v, want valid %v", item, err, want)
		}
		if err != nil {
			return
		}
		event, action, _ := strings.Cut(item, ".")
		if ok, err := m.Match(&queue.Event{EventType: event, Action: queue.Text(action)}, nil); !ok || err != nil {
			t.Errorf("%q does not match the event that it names: %v, %v", item, ok, err)
		}
	})
}

func TestMatchDoesNotAllocate(t *testing.T) {
	m := compile(t, benchSpec)
	e := &queue.Event{EventType: "pull_request", Action: "opened", Repository: "Acme/Api-Gateway"}
	n := testing.AllocsPerRun(100, func() {
		if ok, err := m.Match(e, nil); !ok || err != nil {
			t.Fatalf("Match = %v, %v; want true", ok, err)
		}
	})
	if n != 0 {
		t.Errorf("Match allocates %v times, want 0", n)
	}
}

var benchSpec = Spec{
	On:     []string{"push", "issues", "pull_request.opened"},
	Filter: Filter{Repository: []string{"other/*", "*/web", "acme/api-*"}},
}

func BenchmarkMatch(b *testing.B) {
	m := compile(b, benchSpec)
	e := &queue.Event{EventType: "pull_request", Action: "opened", Repository: "Acme/Api-Gateway"}
	b.ReportAllocs()
	for b.Loop() {
		if ok, _ := m.Match(e, nil); !ok {
			b.Fatal("no match")
		}
	}
}
