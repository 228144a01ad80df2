package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"orchestrate/internal/queue"
)

// draw prints rows as a table; width 0 is a pipe.
func draw(t *testing.T, width int, env map[string]string, rows ...[]string) string {
	t.Helper()
	var out bytes.Buffer
	a := &App{
		Out: bufio.NewWriter(&out), OutTTY: width > 0, Width: width, output: formatTable,
		Getenv: func(name string) string { return env[name] },
	}
	cols := columns("ID", "STATUS", "REPO", "ERROR")
	cols[1].color = statusColor
	cols = narrow(cols, "REPO", "ERROR")
	l := newList(a, cols, func(row []string) []string { return row })
	for _, row := range rows {
		if err := l.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	must(a.Out.Flush())
	return out.String()
}

func TestTable(t *testing.T) {
	rows := [][]string{
		{"1842", "dead_letter", "acme/api", "deploy: exit 1: permission denied"},
		{"7", "pending", "", "evil \x1b[2J\u202etext\nnext"},
		{"12", "failed", "日本/語", ""},
	}
	for _, tt := range []struct {
		name  string
		width int
		want  string
	}{
		{"piped", 0, `
ID    STATUS       REPO      ERROR
1842  dead_letter  acme/api  deploy: exit 1: permission denied
7     pending      -         evil [2Jtext next
12    failed       日本/語   -
`},
		{"fits", 62, `
ID    STATUS       REPO      ERROR
1842  dead_letter  acme/api  deploy: exit 1: permission denied
7     pending      -         evil [2Jtext next
12    failed       日本/語   -
`},
		{"cut", 50, `
ID    STATUS       REPO      ERROR
1842  dead_letter  acme/api  deploy: exit 1: perm…
7     pending      -         evil [2Jtext next
12    failed       日本/語   -
`},
		{"cut more", 34, `
ID    STATUS       REPO     ERROR
1842  dead_letter  acme/a…  deplo…
7     pending      -        evil …
12    failed       日本/語  -
`},
		{"too narrow", 21, `
ID    STATUS       R…
1842  dead_letter  a…
7     pending      -
12    failed       …
`},
		{"much too narrow", 10, `
ID    STA…
1842  dea…
7     pen…
12    fai…
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := draw(t, tt.width, map[string]string{"NO_COLOR": "1"}, rows...); got != tt.want[1:] {
				t.Errorf("got\n%swant%s", got, tt.want)
			}
		})
	}
}

func TestTableColours(t *testing.T) {
	row := []string{"1", "dead_letter", "acme/api", "x"}
	const red = "\x1b[31mdead_letter\x1b[0m"
	for _, tt := range []struct {
		name  string
		width int
		env   map[string]string
		want  bool
	}{
		{"terminal", 80, nil, true},
		{"pipe", 0, nil, false},
		{"NO_COLOR", 80, map[string]string{"NO_COLOR": "1"}, false},
		{"dumb", 80, map[string]string{"TERM": "dumb"}, false},
	} {
		got := draw(t, tt.width, tt.env, row)
		if strings.Contains(got, red) != tt.want || strings.Contains(got, "\x1b") != tt.want {
			t.Errorf("%s: got %q, want colour: %v", tt.name, got, tt.want)
		}
	}
}

func TestLongTableIsPrintedInBlocks(t *testing.T) {
	var rows [][]string
	for i := range 2*tableBlock + 1 {
		rows = append(rows, []string{itoa(int64(i)), "pending", "acme/api", "x"})
	}
	rows[2*tableBlock][2] = "acme/a-longer-name"
	lines := strings.Split(strings.TrimSuffix(draw(t, 0, nil, rows...), "\n"), "\n")
	if len(lines) != len(rows)+1 {
		t.Fatalf("%d lines for %d rows and one heading", len(lines), len(rows))
	}
	if want := "1000  pending  acme/api  x"; lines[tableBlock+1] != want {
		t.Errorf("line of the second block: %q, want %q", lines[tableBlock+1], want)
	}
	if want := "2000  pending  acme/a-longer-name  x"; lines[2*tableBlock+1] != want {
		t.Errorf("last line: %q, want %q", lines[2*tableBlock+1], want)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59*time.Second + 900*time.Millisecond: "59s", 3 * time.Minute: "3m", 119 * time.Minute: "1h",
		47 * time.Hour: "1d", 400 * 24 * time.Hour: "400d", -5 * time.Second: "in 5s",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%s) = %q, want %q", d, got, want)
		}
	}
}

func FuzzEncodeJSON(f *testing.F) {
	for _, s := range []string{"plain", "a\x1b[2Jb", "\u202e", "\U000e0001", "\u009b", "é<&>", "\x00\xff", "\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := encodeJSON(map[string]string{"k": s})
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q became %q: %v", s, b, err)
		}
		if utf8.ValidString(s) && back["k"] != s {
			t.Errorf("%q came back as %q", s, back["k"])
		}
		if i := bytes.IndexFunc(b, func(r rune) bool { return unicode.Is(unicode.C, r) }); i >= 0 {
			t.Errorf("%q holds what a terminal would obey, at %d", b, i)
		}
	})
}

func TestKindOfTimes(t *testing.T) {
	pipe, tty := &App{}, &App{OutTTY: true}
	then := aNow - 3*60_000
	for _, tt := range []struct{ got, want string }{
		{pipe.when(then, aNow), "2026-10-24T11:57:00.000Z"},
		{tty.when(then, aNow), "3m"},
		{tty.when(0, aNow), ""},
		{tty.due(then, aNow), "3m ago"},
		{tty.due(aNow+queue.Time(5000), aNow), "in 5s"},
		{tty.moment(then, aNow), "2026-10-24T11:57:00.000Z (3m ago)"},
		{pipe.moment(then, aNow), "2026-10-24T11:57:00.000Z"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

// What is nested beyond all reason is not set in: its blanks would fill a disk.
func TestDeepJSONIsNotSetIn(t *testing.T) {
	list := func(levels int) []byte {
		return []byte(strings.Repeat("[", levels) + "1" + strings.Repeat("]", levels))
	}
	if got := string(indented(list(maxIndented), "")); !strings.Contains(got, "\n"+strings.Repeat("  ", maxIndented)+"1\n") {
		t.Errorf("%d levels are not set in: %s", maxIndented, got)
	}
	if deep := list(9990); !bytes.Equal(indented(deep, ""), deep) {
		t.Errorf("9990 levels are set in: %d bytes", len(indented(deep, "")))
	}
}
