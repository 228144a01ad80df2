package route

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

// TestReplaceIsBounded: what a condition makes of two long texts is refused
// before it is made, also by Explain.
func TestReplaceIsBounded(t *testing.T) {
	body, err := json.Marshal(map[string]string{"body": strings.Repeat("ab", 32<<10), "title": strings.Repeat("x", 2000)})
	if err != nil {
		t.Fatal(err)
	}
	for condition, want := range map[string]string{
		`payload.body.replace("", payload.title) == "x"`:     "could make more than",
		`payload.body.replace("a", payload.title, 1) == "x"`: "could make more than",
		`payload.body.replace("a", "b").startsWith("bb")`:    "",
		`payload.title.replace("x", "") == ""`:               "",
		`payload.missing.replace("x", "") == ""`:             "no such key",
	} {
		table, err := Compile([]Spec{{Name: "r", On: []string{"push"}, If: condition}})
		if err != nil {
			t.Fatal(err)
		}
		e, p := &queue.Event{EventType: "push"}, &queue.Payload{Body: body, Headers: map[string]string{"Content-Type": "application/json"}}
		_, err = table.Wants("r", e, p)
		told := table.Explain("r", e, p)
		explained := string(told[len(told)-1].Error)
		if want == "" && (err != nil || explained != "") || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(explained, want)) {
			t.Errorf("%s: got %v, explained %q, want %q", condition, err, explained, want)
		}
	}
}

// What CEL would count only when it is done is refused before it begins.
func TestCallsAreBounded(t *testing.T) {
	text := func(n int) string { return `"` + strings.Repeat("a", n) + `"` }
	list := "[" + strings.TrimSuffix(strings.Repeat("7,", 10_000), ",") + "]"
	payload := `{"long":` + text(maxSplit+1) + `,"short":` + text(maxStrange+1) + `,"list":` + list + `,"pattern":"a+"}`
	for condition, want := range map[string]string{
		`payload.long.matches("b")`:                                        "matches: a text of 2500001 bytes, more than 1048576",
		`payload.short.matches("b")`:                                       "",
		`payload.short.matches(payload.pattern)`:                           "matches: a text of 16385 bytes, more than 16384",
		`payload.pattern.matches(payload.pattern)`:                         "",
		`matches(payload.pattern, "a")`:                                    "",
		`payload.list.matches("a")`:                                        "no such overload",
		`payload.missing.matches("a")`:                                     "no such key",
		`payload.short.indexOf("ab") + payload.short.lastIndexOf("b") < 0`: "",
		`payload.pattern.split("+").size() == 2`:                           "",
		`[2, 1, 2].sort() == [1, 2, 2] && [2, 1].sortBy(x, x) == [1, 2]`:   "",
		`[2, 1, 2].distinct() == [2, 1]`:                                   "",
		`[2, 1].hasAll([1]) && [2, 1].hasAny([1]) && [2].hasOnly([2, 1]) && [2, 1].hasExactly([1, 2])`: "",
		`sets.contains([1, 2], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])`:   "",
		`payload.pattern` + strings.Repeat(`.replace("a", "b").replace("b", "a")`, 20) + ` == "a+"`:    "", // each text is made once
	} {
		e, p := given(t, "push", payload)
		table := compile(t, Spec{Name: "r", On: []string{"push"}, If: condition})
		_, err := table.Wants("r", e, p)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", condition, err, want)
		}
	}
}

// Which calls are refused, apart from what CEL says when it has counted them.
func TestBounds(t *testing.T) {
	env, err := language()
	if err != nil {
		t.Fatal(err)
	}
	list := func(n int) ref.Val { return types.NewRefValList(types.DefaultTypeAdapter, make([]ref.Val, n)) }
	text := func(n int) ref.Val { return types.String(strings.Repeat("a", n)) }
	for name, args := range map[string][2][]ref.Val{ // those that pass, those that don't
		"replace":               {{text(10), text(1), text(10)}, {text(2000), text(1), text(1000)}},
		"split":                 {{text(maxSplit), text(1)}, {text(maxSplit + 1), text(1)}},
		"indexOf":               {{text(maxSought), text(1)}, {text(maxSought), text(2)}},
		"lastIndexOf":           {{text(maxSought), text(1)}, {text(maxSought), text(2)}},
		"distinct":              {{list(500)}, {list(501)}},
		"sort":                  {{list(500)}, {list(501)}},
		"@sortByAssociatedKeys": {{list(500), list(500)}, {list(501), list(501)}},
		"hasAll":                {{list(maxCompared), list(1)}, {list(maxCompared), list(2)}},
		"hasAny":                {{list(maxCompared), list(1)}, {list(maxCompared), list(2)}},
		"hasExactly":            {{list(maxCompared), list(1)}, {list(maxCompared), list(2)}},
		"hasOnly":               {{list(maxCompared), list(1)}, {list(maxCompared), list(2)}},
		"sets.contains":         {{list(maxCompared), list(1)}, {list(maxCompared), list(2)}},
		"sets.equivalent":       {{list(maxCompared), list(1)}, {list(maxCompared), list(2)}},
		"sets.intersects":       {{list(maxCompared), list(1)}, {list(maxCompared), list(2)}},
	} {
		bound := bounds[name]
		if bound == nil || !env.HasFunction(name) {
			t.Errorf("%s: bound %t, a function %t, want both", name, bound != nil, env.HasFunction(name))
			continue
		}
		if err := bound(args[0]); err != nil {
			t.Errorf("%s: %v, want it to pass", name, err)
		}
		if bound(args[1]) == nil {
			t.Errorf("%s: passes, want it refused", name)
		}
	}
}

// A payload of too many values is looked into by no rule, and started by those
// that need not look.
func TestTooManyValues(t *testing.T) {
	table := compile(t,
		Spec{Name: "filter", On: []string{"push"}, Filter: Filter{Author: []string{"x"}}},
		Spec{Name: "if", On: []string{"push"}, If: "payload.a == 1"},
		Spec{Name: "plain", On: []string{"push"}})
	for _, values := range []int{queue.MaxValues, queue.MaxValues + 1} { // the object and the list are two of them
		e, p := given(t, "push", `{"a":[`+strings.TrimSuffix(strings.Repeat("0,", values-2), ",")+`]}`)
		got := table.Match(e, p)
		told := map[string]string{}
		for _, m := range got {
			told[m.Route] = fmt.Sprint(m.Err)
		}
		want := map[string]string{"plain": "<nil>"}
		if values > queue.MaxValues {
			want["filter"] = "filter.author: payload: over 1048576 values, more than filters and conditions look into"
			want["if"] = "if: payload: over 1048576 values, more than filters and conditions look into"
		}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("%d values (-want +got):\n%s", values, diff)
		}
	}
}

func TestConditionIsBrokenOff(t *testing.T) {
	c, errs := compileCondition("payload.list.all(x, x == 7)")
	if errs != nil {
		t.Fatal(errs)
	}
	e, p := given(t, "push", `{"list":[`+strings.TrimSuffix(strings.Repeat("7,", 1000), ",")+`]}`)
	in := &input{event: e, payload: p}
	if _, err := in.document(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if held, err := c.holdsWithin(ctx, in); !held || err != nil {
		t.Errorf("in time: %t, %v, want true", held, err)
	}
	cancel()
	if _, err := c.holdsWithin(ctx, in); err == nil || err.Error() != "if: broken off after 1s" {
		t.Errorf("too late: %v, want that it was broken off", err)
	}
}
