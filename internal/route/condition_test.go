package route

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

const conditionBody = `{
	"action":"opened","number":42,"repository":{"full_name":"acme/api"},"sender":{"login":"dana"},
	"id":9007199254740993,"half":0.5,"one":1.0,"huge":18446744073709551615,"huger":18446744073709551616,
	"nothing":null,"yes":true,"text":"Ärger\n","list":[1,2,3],"empty":[],"o":{"a":1,"b":{"c":"d"}},
	"labels":[{"name":"bug"},{"name":"agent"}],
	"files":["src/a.go","docs/b.md"],
	"twice":1,"twice":2}`

func TestConditions(t *testing.T) {
	e, p := given(t, "pull_request.opened", conditionBody)
	tests := []struct {
		condition string
		want      string // true, false, or part of the error
	}{
		{`true`, "true"},
		{`payload.yes`, "true"},
		{`!payload.yes`, "false"},
		{`event.type == "pull_request" && event.action == "opened" && event.repository == "acme/api"`, "true"},
		{`event.sender == "dana" && event.number == 42 && event.source == "github" && event.ref == ""`, "true"},
		{`event.received_at == timestamp("2023-11-14T22:13:20Z")`, "true"},
		{`event.received_at.getDayOfWeek() == 2`, "true"},
		{`has(event.action) && !has(event.ref)`, "true"},
		{`dyn(event).type == "pull_request"`, "true"},
		{`dyn(event).nothing == "x"`, "no such field: nothing"},
		{`payload.id == 9007199254740993`, "true"},
		{`payload.id == 9007199254740992`, "false"},
		{`payload.huge == 18446744073709551615u`, "true"},
		{`payload.huge > 9223372036854775807`, "true"},
		{`payload.huger > 1e19`, "true"},
		{`payload.one == 1 && payload.half < 1 && 1 == payload.one`, "true"},
		{`payload.number > 41.5`, "true"},
		{`payload.twice == 2`, "true"},
		{`payload.nothing == null && payload.nothing != "x"`, "true"},
		{`payload.missing == 1`, "no such key: missing"},
		{`payload.nothing.x == 1`, "no such key: x"},
		{`payload.o.b.c == "d" && payload["o"]["a"] == 1`, "true"},
		{`has(payload.o.b) && !has(payload.o.c) `, "true"},
		{`has(payload.list.x)`, "unsupported index type"},
		{`payload.?o.?x.orValue("none") == "none"`, "true"},
		{`payload.?nothing.?x.hasValue()`, "false"},
		{`payload.missing == 1 || payload.yes`, "true"},
		{`payload.yes || payload.missing == 1`, "true"},
		{`payload.missing == 1 && !payload.yes`, "false"},
		{`payload.list[0] == 1 && payload.list.size() == 3 && 3 in payload.list`, "true"},
		{`payload.list[3] == 1`, "index out of bounds"},
		{`payload.empty == []`, "true"},
		{`payload.o == {"a": 1, "b": {"c": "d"}}`, "true"},
		{`payload.o == {"a": 1.0, "b": {"c": "d"}}`, "true"},
		{`payload.o.map(k, k) == ["a", "b"] && "a" in payload.o && size(payload.o) == 2`, "true"},
		{`payload.labels.exists(l, l.name == "agent") && !payload.labels.all(l, l.name == "agent")`, "true"},
		{`payload.labels.map(l, l.name).join(",") == "bug,agent"`, "true"},
		{`payload.files.exists(f, f.startsWith("src/") && f.endsWith(".go"))`, "true"},
		{`payload.text.trim() == "Ärger" && payload.text.size() == 6 && payload.text.contains("g")`, "true"},
		{`payload.text.matches("^Ä[a-z]+\\n$")`, "true"},
		{`payload.sender.login.upperAscii() == "DANA" && payload.sender.login.split("a").size() == 3`, "true"},
		{`sets.intersects(payload.labels.map(l, l.name), ["agent", "x"])`, "true"},
		{`cel.bind(n, payload.number, n > 1 && n < 100)`, "true"},
		{`int(payload.number) == 42 && string(payload.number) == "42" && type(payload.half) == double`, "true"},
		{`payload.number`, "yields int, want true or false"},
		{`payload.number + "x" == "42x"`, "no such overload"},
		{`payload.number / 0 == 1`, "division by zero"},
	}
	for _, tt := range tests {
		t.Run(tt.condition, func(t *testing.T) {
			table := compile(t, Spec{On: []string{"*"}, If: tt.condition})
			held, err := table.Wants("r0", e, p)
			if got := fmt.Sprint(held); err == nil && got != tt.want || err != nil && (held || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Wants = %v, %v; want %s", held, err, tt.want)
			}
			explained := table.Explain("r0", e, p)[1]
			if explained.Held != held || (explained.Error != "") != (err != nil) {
				t.Errorf("Explain = %+v, want what Wants says: %v, %v", explained, held, err)
			}
		})
	}
}

func TestConditionErrors(t *testing.T) {
	tests := []struct {
		name, condition, want string
	}{
		{"syntax", "payload.a ==", "if: 1:13: "},
		{"second line", "payload.a == 1 &&\n  payload.b = 2", "if: 2:13: "},
		{"one equals sign", "payload.a = 'x'", "if: 1:11: \"=\" can't stand here (it is == in CEL, not =)"},
		{"word for an operator", "payload.a and payload.b", "(it is && in CEL, not and)"},
		{"word for a negation", "true &&\n not payload.a", "(it is ! in CEL, not not)"},
		{"unknown variable", "pyload.draft", `if: 1:1: there is no variable "pyload"; did you mean payload?`},
		{"variable like a field", "repository == 'a/b'", `if: 1:1: there is no variable "repository"; did you mean event.repository?`},
		{"unknown field", "true && event.repo == 'a/b'", `if: 1:15: event has no field "repo"; want one of action, number`},
		{"field near another", "event.repositry == 'a/b'", `if: 1:7: event has no field "repositry"; did you mean repository?`},
		{"unknown function", "payload.a.startswith('x')", `if: 1:11: there is no function "startswith"; did you mean startsWith?`},
		{"unknown global function", "now() > event.received_at", `if: 1:1: there is no function "now"`},
		{"unknown macro", "payload.labels.exist(l, l == 'a')", `there is no function "exist"; did you mean exists?`},
		{"types", "event.number == 'a'", "if: 1:14: == can't be applied to (int, string); int(…) and string(…) convert"},
		{"not a bool", "event.number + 1", "if: yields int, want true or false"},
		{"regular expression", `event.ref.matches("(")`, `if: 1:19: "(" is no regular expression: missing closing )`},
		{"timestamp", `event.received_at > timestamp("yesterday")`, `if: 1:31: "yesterday" is no time; want one as in timestamp(`},
		{"making an event", `orchestrate.Event{type: "x"}.type == "x"`, "if: 1:18: "},
		{"empty", " \n", "if: empty; write a condition"},
		{"not in UTF-8", "payload.a == '\xff'", "if: not in UTF-8"},
		{"too long", "true" + strings.Repeat(" ", maxCondition), fmt.Sprintf("if: %d bytes long, more than 16384", maxCondition+4)},
		{"too deep", strings.Repeat("(", 1000) + "true" + strings.Repeat(")", 1000), "if: "},
		{"too deep in another way", strings.Repeat("!", 1) + strings.Repeat("[", 500) + strings.Repeat("]", 500), "if: "},
		{"never affordable", strings.Repeat("[1,2,3,4,5,6,7,8,9,10].map(a, ", 7) + "1" + strings.Repeat(")", 7) + ".size() > 0", "if: costs at least "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, errs := compileCondition(tt.condition)
			if len(errs) == 0 {
				t.Fatal("compiles, want an error")
			}
			if !strings.Contains(errs[0].Error(), tt.want) {
				t.Errorf("error = %v, want %s", errs[0], tt.want)
			}
		})
	}
}

func TestConditionErrorsSeveral(t *testing.T) {
	_, errs := compileCondition("event.typ == 'push' &&\n  payload.x.containz('a') &&\n  evnt.action == ''")
	var got []string
	for _, e := range errs {
		got = append(got, fmt.Sprintf("%d:%d", e.Line, e.Column))
	}
	if diff := cmp.Diff([]string{"1:7", "2:13", "3:3"}, got); diff != "" {
		t.Errorf("places of errors (-want +got):\n%s\n%v", diff, errs)
	}
}

// What costs too much is broken off, and is an error.
func TestConditionCost(t *testing.T) {
	list := strings.TrimSuffix(strings.Repeat("7,", 2000), ",")
	e, p := given(t, "push", `{"list":[`+list+`]}`)
	table := compile(t,
		Spec{On: []string{"push"}, If: "payload.list.all(a, payload.list.all(b, a == b))"},
		Spec{On: []string{"push"}, If: "payload.list.all(a, a == 7)"})
	got := table.Match(e, p)
	if len(got) != 2 || got[0].Err == nil || !strings.Contains(got[0].Err.Error(), "cost limit exceeded") || got[1].Err != nil {
		t.Errorf("Match = %v, want the first to exceed its cost, the second to hold", got)
	}
}

func BenchmarkConditionOfHighestCost(b *testing.B) {
	list := strings.TrimSuffix(strings.Repeat("7,", 2000), ",")
	e, p := given(b, "push", `{"list":[`+list+`]}`)
	table := compile(b, Spec{On: []string{"push"}, If: "payload.list.all(a, payload.list.all(b, a == b))"})
	for b.Loop() {
		if m := table.Match(e, p); len(m) != 1 || m[0].Err == nil {
			b.Fatal("its cost is not exceeded")
		}
	}
}

func TestExplain(t *testing.T) {
	e, p := given(t, "pull_request.opened", conditionBody)
	draft := true
	table := compile(t, Spec{
		On:     []string{"issues", "pull_request.closed"},
		Filter: Filter{Repository: []string{"acme/*"}, Labels: []string{"x"}, Draft: &draft},
		If:     `payload.yes && (payload.labels.exists(l, l.name == "agent") || has(payload.missing)) && payload.number + 1 > 42 && payload.o.b.c == "d\u001b"`,
	})
	got := table.Explain("r0", e, p)
	want := []Predicate{
		{Name: "on", Wanted: []string{"issues", "pull_request.closed"}, Actual: "pull_request.opened"},
		{Name: "filter.repository", Wanted: []string{"acme/*"}, Actual: "acme/api", Held: true},
		{Name: "filter.draft", Wanted: []string{"true"}},
		{Name: "filter.labels", Wanted: []string{"x"}},
		{Name: "if", Wanted: []string{table.rules[0].cond.text}, Actual: "false", Parts: []Part{
			{"payload.yes", "true"},
			{`payload.labels.exists(l, l.name == "agent")`, "true"},
			{"payload.labels", "list of 2"},
			{"has(payload.missing)", "false"},
			{"payload.number + 1 > 42", "true"},
			{"payload.number", "42"},
			{`payload.o.b.c == "d\x1b"`, "false"},
			{"payload.o.b.c", `"d"`},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
}

// Everything that Explain shows of a payload is fit for a terminal.
func TestExplainIsPrintable(t *testing.T) {
	e, p := given(t, "issues.opened", `{"issue":{"user":{"login":"a\u001b[31mb\u202e"},"labels":[{"name":"x\u0007"}]},"t":"\u001b[0m"}`)
	table := compile(t, Spec{On: []string{"issues"}, Filter: Filter{Author: []string{"x"}, Labels: []string{"x"}}, If: `payload.t == "x" && payload[payload.t] == 1`})
	for _, pr := range table.Explain("r0", e, p) {
		shown := []string{pr.Actual, string(pr.Error)}
		for _, part := range pr.Parts {
			shown = append(shown, part.Text, part.Value)
		}
		for _, s := range shown {
			if s != queue.Printable(s) || len(s) > queue.MaxText {
				t.Errorf("%s shows %q", pr.Name, s)
			}
		}
	}
}

// FuzzCondition wants junk refused, with a place, and what is not refused to
// come to an end.
func FuzzCondition(f *testing.F) {
	for _, s := range []string{
		`!payload.pull_request.draft`, `event.type == "push" && payload.commits.exists(c, c.added.exists(f, f.startsWith("src/")))`,
		`payload.?a[?0].orValue({}).x`, `has(payload.a.b) ? payload.a.b : false`, `"%d".format([payload.n]) == "1"`,
		`[[[[[`, `payload.`, `event.x`, `'''`, `cel.bind(a, payload, a.b)`, `[1,2].map(x, [1,2].map(y, x * y)) == payload`, "a\nb", "\x00", `"\ud800"`, `cel.bind(.,a,0`,
	} {
		f.Add(s)
	}
	e, p := given(f, "pull_request.opened", conditionBody)
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Compile([]Spec{{Name: "r", On: []string{"*"}, If: text}})
		if err != nil {
			return
		}
		held, err := table.Wants("r", e, p)
		if held && err != nil {
			t.Errorf("%q: holds, and %v", text, err)
		}
		table.Explain("r", e, p)
	})
}
