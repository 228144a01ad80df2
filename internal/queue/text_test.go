package queue

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestClean(t *testing.T) {
	tests := map[string]Text{
		"":                         "",
		"plain":                    "plain",
		"größe 漢字 🙂":               "größe 漢字 🙂",
		"a\nb\tc\r\nd":             "a b c  d",
		"\x1b]0;title\x07x":        "]0;titlex",
		"\u202egnp.exe\u2066":      "gnp.exe",
		"bad \xff\xfe utf-8":       "bad  utf-8",
		"nul \x00 here":            "nul  here",
		strings.Repeat("ä", 200):   Text(strings.Repeat("ä", 126) + "…"),
		strings.Repeat("a", 255):   Text(strings.Repeat("a", 255)),
		strings.Repeat("a", 1<<20): Text(strings.Repeat("a", 252) + "…"),
	}
	for in, want := range tests {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%.40q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"", "a\x1b[2Jb", "\xc3\x28", strings.Repeat("é", 300), "\u2028\u202e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := string(Clean(in))
		if len(out) > MaxText || !utf8.ValidString(out) {
			t.Errorf("Clean(%q) = %q: %d bytes", in, out, len(out))
		}
		for _, r := range out {
			if unicode.Is(unicode.C, r) {
				t.Errorf("Clean(%q) keeps %U", in, r)
			}
		}
		if again := string(Clean(out)); again != out {
			t.Errorf("Clean(Clean(%q)) = %q, want %q", in, again, out)
		}
	})
}

func TestAbsentIsNull(t *testing.T) {
	got, err := json.Marshal(Event{ID: 1, ReceivedAt: 1_790_000_000_123, Routes: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"action":null`, `"number":null`, `"processed_at":null`, `"received_at":"2026-09-21T14:13:20.123Z"`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("got %s, want %s in it", got, want)
		}
	}
}

func TestEventJSONRoundTrip(t *testing.T) {
	want := Event{ID: 1, Source: "s", Action: "a", Number: 7, ReceivedAt: 1_790_000_000_123, Routes: []string{"r"}}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Event
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestPayloadJSON(t *testing.T) {
	form := map[string]string{"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=utf-8"}
	tests := []struct {
		name    string
		payload Payload
		want    string
		bad     bool
	}{
		{"json", Payload{map[string]string{"Content-Type": "application/json"}, []byte(`{"a":1}`)}, `{"a":1}`, false},
		{"form", Payload{form, []byte("payload=%7B%22a%22%3A1%7D")}, `{"a":1}`, false},
		{"form without it", Payload{form, []byte("x=1")}, "", true},
		{"form with two", Payload{form, []byte("payload=1&payload=2")}, "", true},
		{"broken form", Payload{form, []byte("payload=%zz")}, "", true},
	}
	for _, test := range tests {
		got, err := test.payload.JSON()
		if string(got) != test.want || (err != nil) != test.bad {
			t.Errorf("%s: got %q, %v; want %q", test.name, got, err, test.want)
		}
	}
}

func TestShape(t *testing.T) {
	for doc, want := range map[string][2]int{
		`0`: {1, 0}, ` "a" `: {1, 0}, `{}`: {1, 1}, `[ ]`: {1, 1}, `[1]`: {2, 1}, `[1, 2]`: {3, 1}, `{"a" : 1}`: {2, 1},
		`[[],[]]`: {3, 2}, `[{"a":[1,{}]},"[{,\\\"]"]`: {6, 4}, `["\\"]`: {2, 1},
	} {
		if values, depth := Shape([]byte(doc)); [...]int{values, depth} != want {
			t.Errorf("%s: %d values, %d deep; want %v", doc, values, depth, want)
		}
	}
	for _, broken := range []string{"", "]}", `"`, `"\\`, `{"a`, "[,", "\xff"} {
		Shape([]byte(broken))
	}
}
