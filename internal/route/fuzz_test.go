package route

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

// FuzzPayload asks rules that look into every corner of a payload. What they say
// of two of the facts must be what encoding/json says; Match, Wants and Explain
// must agree; and nothing may panic, which a rule would tell as an error.
func FuzzPayload(f *testing.F) {
	no := false
	specs := []Spec{
		{Name: "labels", On: []string{"*"}, Filter: Filter{Labels: []string{"agent*"}}},
		{Name: "ready", On: []string{"*"}, Filter: Filter{Draft: &no}},
		{Name: "rest", On: []string{"*"}, Filter: Filter{
			Repository: []string{"*/*"}, BaseBranch: []string{"**"}, Author: []string{"*"}, SkipForks: true,
			AuthorAssociation: []string{"MEMBER"}, SenderType: []string{"User"},
		}},
		{Name: "deep", On: []string{"*"}, If: `payload.exists(k, k == "a" && payload[k] == payload.?b.orValue(1))`},
		{Name: "text", On: []string{"*"}, If: `string(payload.?action.orValue("")).matches("^[a-z]+$") && size(payload) > 1 && payload == payload`},
		{Name: "sum", On: []string{"*"}, If: `payload.?n.orValue(0) + payload.?m.orValue(1) > 0 || double(payload.n) < 1e300`},
	}
	table := compile(f, specs...)
	for name, body := range payloads(f) {
		if len(body) < 30<<10 {
			eventType, _, _ := strings.Cut(name, "/")
			f.Add(eventType, body)
		}
	}
	for _, body := range []string{
		conditionBody, `{"a":1,"a":2,"b":2}`, `{"n":1e400,"m":-1e400}`, `{"n":9223372036854775807,"m":1}`, `{"action":"\ud800","a":"\u0000","b":"\u0000"}`,
		`{"pull_request":{"labels":[{"name":"agent"},{"name":7},null],"draft":false,"base":{"ref":"\ud83d"}}}`, `{"pull_request":{"labels":{"name":"agent"},"draft":"false"}}`,
		`{"a":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`, `[]`, ``, `{"pull_request":[{"labels":[]}]}`, "{\"a\":\"\xff\",\"b\":\"\xfe\"}",
	} {
		f.Add("pull_request", []byte(body))
	}
	f.Fuzz(func(t *testing.T, eventType string, body []byte) {
		if !json.Valid(body) {
			return // nothing such is stored
		}
		e := &queue.Event{EventType: eventType, Action: "opened", Repository: "acme/api", Source: "github"}
		p := &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: body}
		matched := map[string]error{}
		for _, m := range table.Match(e, p) {
			matched[m.Route] = m.Err
		}
		for _, s := range specs {
			err, in := matched[s.Name]
			if err != nil && strings.Contains(err.Error(), "panic") {
				t.Errorf("%s: %v", s.Name, err)
			}
			held, wantsErr := table.Wants(s.Name, e, p)
			if held != (in && err == nil) || (err == nil) != (wantsErr == nil) {
				t.Errorf("%s of %q: Match says %v, %v, Wants says %v, %v", s.Name, body, in, err, held, wantsErr)
			}
			told := table.Explain(s.Name, e, p)
			if all := !slices.ContainsFunc(told, func(p Predicate) bool { return !p.Held }); all != held {
				t.Errorf("%s of %q: Wants says %v, Explain %+v", s.Name, body, held, told)
			}
			for _, p := range told {
				for _, part := range p.Parts {
					if text := p.Actual + string(p.Error) + part.Value; text != queue.Printable(text) {
						t.Errorf("%s tells %q", s.Name, text)
					}
				}
			}
		}
		if eventType == "pull_request" {
			asEncodingJSON(t, body, matched)
		}
	})
}

func asEncodingJSON(t *testing.T, body []byte, matched map[string]error) {
	t.Helper()
	doc := standard(t, body)
	at := func(v any, name string) any {
		o, _ := v.(map[string]any)
		return o[name]
	}
	pr := at(doc, "pull_request")
	labels, _ := at(pr, "labels").([]any)
	labelled := slices.ContainsFunc(labels, func(l any) bool {
		name, _ := at(l, "name").(string)
		return strings.HasPrefix(strings.ToLower(name), "agent")
	})
	draft := at(pr, "draft")
	_, gotLabelled := matched["labels"]
	_, gotReady := matched["ready"]
	if diff := cmp.Diff([]bool{labelled, draft == false || draft == "false"}, []bool{gotLabelled, gotReady}); diff != "" {
		t.Errorf("labelled and ready, of %q (-encoding/json +filters):\n%s", body, diff)
	}
}
