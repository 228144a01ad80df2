package route

import (
	"encoding/json"
	"strings"
	"testing"

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
