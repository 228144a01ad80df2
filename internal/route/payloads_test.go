package route

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/webhook"
)

// payloads are the examples, and if ORCHESTRATE_TEST_PAYLOADS names a folder of
// <event>/*.json, those in it. The key is a name, the event in front.
func payloads(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, eventType := range webhook.Examples() {
		all[eventType+"/example"] = example(t, eventType)
	}
	if dir := os.Getenv("ORCHESTRATE_TEST_PAYLOADS"); dir != "" {
		files, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
		if err != nil || len(files) == 0 {
			t.Fatalf("payloads in %s: %d, %v", dir, len(files), err)
		}
		for _, f := range files {
			body, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all[filepath.Base(filepath.Dir(f))+"/"+filepath.Base(f)] = body
		}
	}
	return all
}

// Of each payload the index has what encoding/json has, and so have the facts.
func TestPayloadsFacts(t *testing.T) {
	seen := map[string]int{}
	for name, body := range payloads(t) {
		eventType, _, _ := strings.Cut(name, "/")
		e, p := event(t, eventType, body)
		whole := standard(t, body)
		d := indexed(t, body)
		if diff := cmp.Diff(whole, d.decode(0)); diff != "" {
			t.Errorf("%s (-encoding/json +index):\n%s", name, diff)
		}
		in := &input{event: e, payload: p}
		for i := range facts {
			got, err := in.fact(i)
			if err != nil {
				t.Errorf("%s: %s: %v", name, facts[i].key, err)
			}
			if len(got) > 0 {
				seen[facts[i].key]++
			}
			r := facts[i].of(eventType)
			if r == nil || strings.Contains(r.where, " ") && facts[i].key != "paths" {
				continue // no plain place
			}
			var want []string
			for where := range strings.SplitSeq(r.where, ", ") {
				want = append(want, pick(whole, strings.Split(where, "."))...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s = %q, want %q", name, facts[i].key, got, want)
			}
		}
	}
	for i := range facts {
		if seen[facts[i].key] == 0 {
			t.Errorf("no payload has %s", facts[i].key)
		}
	}
}

// pick follows a place through what encoding/json made.
func pick(v any, path []string) []string {
	if len(path) == 0 {
		switch v := v.(type) {
		case string:
			return []string{v}
		case bool:
			return []string{fmt.Sprint(v)}
		}
		return nil
	}
	name, isList := strings.CutSuffix(path[0], "[]")
	m, _ := v.(map[string]any)
	if !isList {
		return pick(m[name], path[1:])
	}
	var all []string
	items, _ := m[name].([]any)
	for _, item := range items {
		all = append(all, pick(item, path[1:])...)
	}
	return all
}

// Every filter and a few conditions over every payload: no error, and Match,
// Wants and Explain agree.
func TestPayloadsMatch(t *testing.T) {
	yes, no := true, false
	specs := []Spec{
		{Name: "all", On: []string{"*"}},
		{Name: "repository", On: []string{"*"}, Filter: Filter{Repository: []string{"**"}}},
		{Name: "branch", On: []string{"*"}, Filter: Filter{BaseBranch: []string{"**"}}},
		{Name: "labels", On: []string{"*"}, Filter: Filter{Labels: []string{"*"}}},
		{Name: "author", On: []string{"*"}, Filter: Filter{Author: []string{"*"}}},
		{Name: "paths", On: []string{"*"}, Filter: Filter{Paths: []string{"**"}}},
		{Name: "conclusion", On: []string{"*"}, Filter: Filter{Conclusion: []string{"success", "failure", "neutral", "action_required"}}},
		{Name: "association", On: []string{"*"}, Filter: Filter{AuthorAssociation: []string{"OWNER", "COLLABORATOR", "MEMBER"}}},
		{Name: "sender", On: []string{"*"}, Filter: Filter{SenderType: []string{"User", "Bot", "Organization"}}},
		{Name: "own", On: []string{"*"}, Filter: Filter{SkipForks: true}},
		{Name: "draft", On: []string{"*"}, Filter: Filter{Draft: &yes}},
		{Name: "no-draft", On: []string{"*"}, Filter: Filter{Draft: &no}},
		{Name: "condition", On: []string{"*"}, If: `has(payload.sender) && payload.?action.orValue("") == event.action`},
		{Name: "sizes", On: []string{"*"}, If: `payload.all(k, type(payload[k]) != list || size(payload[k]) >= 0)`},
	}
	table := compile(t, specs...)
	for name, body := range payloads(t) {
		eventType, _, _ := strings.Cut(name, "/")
		e, p := event(t, eventType, body)
		matches := map[string]bool{}
		for _, m := range table.Match(e, p) {
			if m.Err != nil {
				t.Errorf("%s: route %s: %v", name, m.Route, m.Err)
			}
			matches[m.Route] = true
		}
		for _, s := range specs {
			want, err := table.Wants(s.Name, e, p)
			held := !slices.ContainsFunc(table.Explain(s.Name, e, p), func(p Predicate) bool { return !p.Held })
			if err != nil || want != matches[s.Name] || want != held {
				t.Errorf("%s: route %s: Match %v, Wants %v %v, Explain %v", name, s.Name, matches[s.Name], want, err, held)
			}
		}
		if !matches["all"] || !matches["condition"] || !matches["sizes"] {
			t.Errorf("%s: matches %v, want all, condition and sizes among them", name, matches)
		}
	}
}

// The list of events knows all that the payloads are of.
func TestPayloadsAreKnown(t *testing.T) {
	for name, body := range payloads(t) {
		eventType, _, _ := strings.Cut(name, "/")
		var doc struct{ Action string }
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatal(err)
		}
		if text := doubt(kind{eventType, doc.Action}); text != "" {
			t.Errorf("%s: %s", name, text)
		}
	}
	for i := range facts {
		for _, eventType := range facts[i].events() {
			if text := doubt(kind{event: eventType}); text != "" {
				t.Errorf("%s of %s: %s", facts[i].key, eventType, text)
			}
		}
	}
}
