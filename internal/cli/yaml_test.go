package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func toYAML(t *testing.T, doc string) string {
	t.Helper()
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	if err := writeYAML(w, []byte(doc), "", ""); err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	must(w.Flush())
	return b.String()
}

func TestYAML(t *testing.T) {
	long := strings.Repeat("k", 1200)
	for _, tt := range []struct{ name, doc, want string }{
		{"nothing", `null`, "null\n"},
		{"empty", `{"a":{},"b":[]}`, "a: {}\nb: []\n"},
		{"empty list", `[]`, "[]\n"},
		{"nested", `{"a":{"b":[{"c":1,"d":2},[3,[4]]]}}`, "a:\n  b:\n    - c: 1\n      d: 2\n    - - 3\n      - - 4\n"},
		{"deep", strings.Repeat(`{"a":`, maxIndented) + "{}" + strings.Repeat("}", maxIndented), strings.Repeat(`{"a":`, maxIndented) + "{}" + strings.Repeat("}", maxIndented) + "\n"},
		{"order", `{"z":1,"a":2}`, "z: 1\na: 2\n"},
		{"numbers", `[9007199254740993,1.50,-0,1e400]`, "- 9007199254740993\n- 1.50\n- -0\n- 1e400\n"},
		{"words", `["yes","No","null","010","1e5","~","","on","plain text","-","a: b","#x","<<","0x1f","2026-01-01","=","é"]`, `- "yes"
- "No"
- "null"
- "010"
- "1e5"
- "~"
- ""
- "on"
- plain text
- "-"
- "a: b"
- "#x"
- "<<"
- "0x1f"
- "2026-01-01"
- "="
- "é"
`},
		{"controls", `["\u001b[2J","\u202e","\udb40\udc01","\u0000","a\tb\r","\u2028\u0085"]`, `- "\u001b[2J"
- "\u202e"
- "\U000e0001"
- "\u0000"
- "a\tb\u000d"
- "\u2028\u0085"
`},
		{"lines", `{"a":"x\n  y\n\nz\n","b":"x\ny"}`, "a: |\n  x\n    y\n\n  z\nb: |-\n  x\n  y\n"},
		{"lines that no block keeps", `["x\n\n"," x\ny","\nx","x\n\u001by","x\t\ny"]`, "- \"x\\n\\n\"\n- \" x\\ny\"\n- \"\\nx\"\n- \"x\\n\\u001by\"\n- \"x\\t\\ny\"\n"},
		{"keys", `{"on":1,"a b":2,"":3,"a\nb":4}`, "\"on\": 1\na b: 2\n\"\": 3\n\"a\\nb\": 4\n"},
		{"long key", `{"` + long + `":{"a":1}}`, "? " + long + "\n:\n  a: 1\n"},
	} {
		if got := toYAML(t, tt.doc); got != tt.want {
			t.Errorf("%s: got\n%swant\n%s", tt.name, got, tt.want)
		}
	}
}

// FuzzYAML reads back what was written with a parser that is not ours.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{"yes", "010", "a\x1b[2Jb", "\u202e", "x\n y\n", "\n", " ", "- a", "? b", "'", `"`, "\U000e0001", "\u2028", "\ufeff", "é: ü", "…", "---", "a\n---\nb"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, key, text string) {
		doc, err := encodeJSON(map[string]any{key: []any{text, map[string]any{"k": text, "l": nil}}})
		if err != nil {
			t.Fatal(err)
		}
		got := toYAML(t, string(doc))
		if strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && unicode.Is(unicode.C, r) }) {
			t.Errorf("%q holds what a terminal would obey", got)
		}
		var back, want any
		if err := yaml.Unmarshal([]byte(got), &back); err != nil {
			t.Fatalf("%s\nbecame\n%s\n%v", doc, got, err)
		}
		must(json.Unmarshal(doc, &want))
		if diff := cmp.Diff(want, back); diff != "" {
			t.Errorf("%s\nbecame\n%s\n(-want +got):\n%s", doc, got, diff)
		}
	})
}
