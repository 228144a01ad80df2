package route

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tidwall/gjson"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

// example is a payload as GitHub would send it: without blanks.
func example(t testing.TB, eventType string) []byte {
	t.Helper()
	indented, err := webhook.Example(eventType)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, indented); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// event is a delivery as intake makes it.
func event(t testing.TB, eventType string, body []byte) (*queue.Event, *queue.Payload) {
	t.Helper()
	e, p, err := webhook.Parse(webhook.Delivery{Source: "github", Body: body, ReceivedAt: 1_700_000_000_000, Header: map[string][]string{
		"X-Github-Event": {eventType}, "X-Github-Delivery": {"d"}, "Content-Type": {"application/json"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return e, p
}

// filtered are n routes with filters: on pull requests, checks, issues and
// pushes by turns, as a configuration has them. The first wants the example of a
// pull request.
func filtered(n int) []Spec {
	no := false
	kinds := []Spec{
		{On: []string{"pull_request.opened", "pull_request.reopened"}, Filter: Filter{
			Repository: []string{"acme/*"}, BaseBranch: []string{"main", "release/*"}, SkipForks: true, Draft: &no,
		}},
		{On: []string{"check_run.completed", "check_suite.completed"}, Filter: Filter{
			Repository: []string{"acme/*"}, Conclusion: []string{"failure", "timed_out"},
		}},
		{On: []string{"issues.opened", "issues.labeled"}, Filter: Filter{
			Repository: []string{"acme/*"}, Labels: []string{"agent", "area/*"},
		}},
		{On: []string{"push"}, Filter: Filter{
			Repository: []string{"acme/*"}, BaseBranch: []string{"main"}, Paths: []string{"src/**", "**/*.go"},
		}},
		{On: []string{"pull_request"}, Filter: Filter{
			Repository: []string{"acme/*"}, Author: []string{"renovate*", "dependabot[bot]"}, Labels: []string{"dependencies"},
		}},
	}
	specs := make([]Spec, n)
	for i := range specs {
		specs[i] = kinds[i%len(kinds)]
		specs[i].Name = fmt.Sprint("route-", i)
	}
	return specs
}

func benchmarkMatch(b *testing.B, specs []Spec, eventType string) {
	table, err := Compile(specs)
	if err != nil {
		b.Fatal(err)
	}
	e, p := event(b, eventType, example(b, eventType))
	b.ReportAllocs()
	for b.Loop() {
		if len(table.Match(e, p)) == 0 {
			b.Fatal("no route matches")
		}
	}
}

func BenchmarkMatch1Route(b *testing.B)    { benchmarkMatch(b, filtered(1), "pull_request") }
func BenchmarkMatch100Routes(b *testing.B) { benchmarkMatch(b, filtered(100), "pull_request") }

// The same, where all hundred are for the type of event that comes.
func BenchmarkMatch100RoutesOfOneType(b *testing.B) {
	specs := filtered(100)
	for i := range specs {
		specs[i].On, specs[i].Filter = filtered(1)[0].On, filtered(1)[0].Filter
		specs[i].Filter.BaseBranch = []string{fmt.Sprintf("release/%d.*", i), "main"}
	}
	benchmarkMatch(b, specs, "pull_request")
}

// A route that looks at nothing but the event: what a payload costs is the
// difference.
func BenchmarkMatchOnAlone(b *testing.B) {
	benchmarkMatch(b, []Spec{{Name: "a", On: []string{"pull_request.opened"}, Filter: Filter{Repository: []string{"acme/*"}}}}, "pull_request")
}

const benchCondition = `!payload.pull_request.draft && payload.pull_request.base.ref == "main" && payload.pull_request.changed_files < 500`

func BenchmarkCondition(b *testing.B) {
	benchmarkMatch(b, []Spec{{Name: "a", On: []string{"pull_request"}, If: benchCondition}}, "pull_request")
}

// The condition alone, over a payload that is indexed already.
func BenchmarkConditionAlone(b *testing.B) {
	c, errs := compileCondition(benchCondition)
	if errs != nil {
		b.Fatal(errs)
	}
	e, p := event(b, "pull_request", example(b, "pull_request"))
	in := &input{event: e, payload: p}
	b.ReportAllocs()
	for b.Loop() {
		if held, err := c.holds(in); !held || err != nil {
			b.Fatal(held, err)
		}
	}
}

func BenchmarkConditionOverList(b *testing.B) {
	benchmarkMatch(b, []Spec{{
		Name: "a", On: []string{"pull_request"},
		If: `payload.pull_request.labels.exists(l, l.name == "agent") || payload.pull_request.user.login.endsWith("a")`,
	}}, "pull_request")
}

// BenchmarkDocument compares ways to read one field of the second level.
func BenchmarkDocument(b *testing.B) {
	body := example(b, "pull_request")
	for name, read := range map[string]func() bool{
		"index": func() bool {
			d := indexed(b, body)
			defer d.release()
			return d.raw(d.at("pull_request", "draft")) == "false"
		},
		"gjson": func() bool {
			v := gjson.ParseBytes(body)
			for _, name := range []string{"pull_request", "draft"} {
				var found gjson.Result
				v.ForEach(func(key, value gjson.Result) bool {
					if key.Str == name {
						found = value
					}
					return true
				})
				v = found
			}
			return v.Type == gjson.False
		},
		"encoding/json": func() bool {
			d := json.NewDecoder(bytes.NewReader(body))
			d.UseNumber()
			var v map[string]any
			if d.Decode(&v) != nil {
				return false
			}
			pr, _ := v["pull_request"].(map[string]any)
			return pr["draft"] == false
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if !read() {
					b.Fatal("draft is not false")
				}
			}
		})
	}
}
