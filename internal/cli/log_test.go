package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

const (
	aSecret = "it's a \"sécret\" of ours"
	escapes = "\x1b[31mred\x1b[0m\a\r\n\u202egnp.exe\u009b2J\xff"
	stamp   = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`
)

func mustLogger(t *testing.T, w io.Writer, format string, terminal bool, secrets ...string) *slog.Logger {
	t.Helper()
	r := new(redactor)
	for _, s := range secrets {
		r.add(config.NewSecret([]byte(s), "test"))
	}
	log, err := newLogger(w, logOptions{format: format, terminal: terminal, colour: terminal, least: slog.LevelDebug, redactor: r})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// logged returns what f logs as JSON and as text, without time, level and
// message, which must be there.
func logged(t *testing.T, f func(*slog.Logger), secrets ...string) (js, text string) {
	t.Helper()
	var b bytes.Buffer
	f(mustLogger(t, &b, "json", false, secrets...))
	js = after(t, b.String(), `^\{"time":"`+stamp+`","level":"INFO","msg":"m",?`)
	b.Reset()
	f(mustLogger(t, &b, "text", false, secrets...))
	text = after(t, b.String(), `^`+stamp+` INFO m ?`)
	return "{" + js, text
}

func after(t *testing.T, line, head string) string {
	t.Helper()
	line, ended := strings.CutSuffix(line, "\n")
	if !ended || strings.Contains(line, "\n") {
		t.Errorf("%q is not one line", line)
	}
	loc := regexp.MustCompile(head).FindStringIndex(line)
	if loc == nil {
		t.Fatalf("%q does not start with %s", line, head)
	}
	return line[loc[1]:]
}

type (
	hiding    struct{ Key string }
	looksLike struct{ Name, Password string }
	shouting  struct{ s string }
	named     string
	raw       []byte
)

func (hiding) LogValue() slog.Value { return slog.StringValue("hidden") }
func (s shouting) String() string   { return s.s }
func (s shouting) Error() string    { return s.s }

type stringer struct{ s string }

func (s *stringer) String() string { return s.s }

type selfMade struct{ hidden string }

func (s *selfMade) MarshalJSON() ([]byte, error) {
	return []byte(`{"shown":"` + s.hidden[:1] + `"}`), nil
}

func TestLogValues(t *testing.T) {
	secret := config.NewSecret([]byte(aSecret), "test")
	at := time.Date(2026, 10, 24, 5, 0, 0, 123456789, time.FixedZone("", 7200))
	var none *stringer
	for name, c := range map[string]struct {
		value    any
		js, text string
	}{
		"string":            {"a b", `"a b"`, `"a b"`},
		"empty string":      {"", `""`, `""`},
		"int":               {7, `7`, `7`},
		"uint":              {uint8(7), `7`, `7`},
		"large":             {int64(1) << 62, `4611686018427387904`, `4611686018427387904`},
		"float":             {0.5, `0.5`, `0.5`},
		"bool":              {true, `true`, `true`},
		"nil":               {nil, `null`, `<nil>`},
		"nil pointer":       {none, `null`, `<nil>`},
		"nil slice":         {[]string(nil), `null`, `<nil>`},
		"nil error":         {error(nil), `null`, `<nil>`},
		"time":              {at, `"2026-10-24T03:00:00.123Z"`, `2026-10-24T03:00:00.123Z`},
		"queue time":        {queue.At(at), `"2026-10-24T03:00:00.123Z"`, `2026-10-24T03:00:00.123Z`},
		"no time":           {queue.Time(0), `""`, `""`},
		"times":             {[]queue.Time{queue.At(at)}, `["2026-10-24T03:00:00.123Z"]`, `2026-10-24T03:00:00.123Z`},
		"duration":          {90 * time.Second, `"1m30s"`, `1m30s`},
		"queue text":        {queue.Text("acme/api"), `"acme/api"`, `acme/api`},
		"absent text":       {queue.Text(""), `""`, `""`},
		"queue int":         {queue.Int(3), `3`, `3`},
		"named string":      {named(escapes), `"[31mred[0m  gnp.exe2J"`, `"[31mred[0m  gnp.exe2J"`},
		"escapes":           {escapes, `"[31mred[0m  gnp.exe2J"`, `"[31mred[0m  gnp.exe2J"`},
		"bytes":             {[]byte(escapes), `"[31mred[0m  gnp.exe2J"`, `"[31mred[0m  gnp.exe2J"`},
		"named bytes":       {raw(escapes), `"[31mred[0m  gnp.exe2J"`, `"[31mred[0m  gnp.exe2J"`},
		"error":             {errors.New(escapes), `"[31mred[0m  gnp.exe2J"`, `"[31mred[0m  gnp.exe2J"`},
		"wrapped error":     {fmt.Errorf("a: %w", errors.Join(errors.New("b"), errors.New("c"))), `"a: b c"`, `"a: b c"`},
		"errors":            {[]error{errors.New("b"), io.EOF}, `["b","EOF"]`, `b,EOF`},
		"stringer":          {shouting{escapes}, `"[31mred[0m  gnp.exe2J"`, `"[31mred[0m  gnp.exe2J"`},
		"stringer, pointer": {&stringer{escapes}, `"[31mred[0m  gnp.exe2J"`, `"[31mred[0m  gnp.exe2J"`},
		"LogValuer":         {hiding{aSecret}, `"hidden"`, `hidden`},
		"LogValuers":        {[]hiding{{aSecret}}, `["hidden"]`, `hidden`},
		"LogValuer in map":  {map[string]any{"b": hiding{aSecret}, "a": 1}, `{"a":1,"b":"hidden"}`, `"{\"a\":1,\"b\":\"hidden\"}"`},
		"secret":            {secret, `"[redacted]"`, `[redacted]`},
		"secrets":           {[]config.Secret{secret}, `["[redacted]"]`, `[redacted]`},
		"strings":           {[]string{"a", escapes}, `["a","[31mred[0m  gnp.exe2J"]`, `"a,[31mred[0m  gnp.exe2J"`},
		"no strings":        {[]string{}, `[]`, `""`},
		"struct":            {looksLike{"<n&>", "p"}, `{"Name":"<n&>","Password":"[redacted]"}`, `"{\"Name\":\"<n&>\",\"Password\":\"[redacted]\"}"`},
		"pointer to struct": {&looksLike{escapes, ""}, `{"Name":"[31mred[0m  gnp.exe2J","Password":"[redacted]"}`, `"{\"Name\":\"[31mred[0m  gnp.exe2J\",\"Password\":\"[redacted]\"}"`},
		"own JSON":          {&selfMade{"xyz"}, `{"shown":"x"}`, `"{\"shown\":\"x\"}"`},
		"map":               {map[string]string{"x-token": "t", "a\x1b": "b\x1b"}, `{"a":"b","x-token":"[redacted]"}`, `"{\"a\":\"b\",\"x-token\":\"[redacted]\"}"`},
		"map of numbers":    {map[int]bool{1: true}, `{"1":true}`, `"{\"1\":true}"`},
		"big in struct":     {struct{ N int64 }{1<<62 + 1}, `{"N":4611686018427387905}`, `"{\"N\":4611686018427387905}"`},
		"channel":           {struct{ C chan int }{}, `"{C:<nil>}"`, `{C:<nil>}`},
	} {
		t.Run(name, func(t *testing.T) {
			js, text := logged(t, func(l *slog.Logger) { l.Info("m", "k", c.value) }, aSecret)
			if want := `{"k":` + c.js + `}`; js != want {
				t.Errorf("JSON:\n got %s\nwant %s", js, want)
			}
			if want := "k=" + c.text; text != want {
				t.Errorf("text:\n got %s\nwant %s", text, want)
			}
		})
	}
}

type panicking struct{}

func (panicking) String() string { panic("no\x1b[0m " + aSecret) }

type panickingValuer struct{}

func (panickingValuer) LogValue() slog.Value { panic(aSecret) }

func TestLogPanicInValue(t *testing.T) {
	js, text := logged(t, func(l *slog.Logger) { l.Info("m", "k", panicking{}) }, aSecret)
	want := `panic while logging a cli.panicking: no[0m [redacted]`
	if js != `{"k":"`+want+`"}` || text != `k="`+want+`"` {
		t.Errorf("got %s and %s, want %s", js, text, want)
	}
	js, text = logged(t, func(l *slog.Logger) { l.Info("m", "k", panickingValuer{}) }, aSecret)
	for _, out := range []string{js, text} {
		if !strings.Contains(out, "LogValue panicked") || strings.Contains(out, "sécret") {
			t.Errorf("got %s", out)
		}
	}
}

func TestLogBounds(t *testing.T) {
	cyclic := []any{nil}
	cyclic[0] = cyclic
	js, text := logged(t, func(l *slog.Logger) { l.Info("m", "k", cyclic) })
	if want := strings.Repeat("[", maxLogNest+1) + `"…"` + strings.Repeat("]", maxLogNest+1); js != `{"k":`+want+`}` {
		t.Errorf("cyclic: got %s and %s, want %s", js, text, want)
	}
	js, text = logged(t, func(l *slog.Logger) { l.Info("m", "k", strings.Repeat("é", maxLogText)) })
	if len(js) > maxLogText+20 || len(text) > maxLogText+20 || !strings.HasSuffix(text, "é…") {
		t.Errorf("long text: %d and %d bytes", len(js), len(text))
	}
	js, _ = logged(t, func(l *slog.Logger) { l.Info("m", "k", make([]bool, maxLogList+1)) })
	if n := strings.Count(js, "false"); n != maxLogList || !strings.HasSuffix(js, `,"…"]}`) {
		t.Errorf("long list: %d elements", n)
	}
}

func TestLogSensitiveKeys(t *testing.T) {
	for _, key := range []string{
		"secret", "SECRET", "client_secret", "clientSecret", "token", "access-token", "password", "db.password", "passwd", "authorization",
		"Proxy-Authorization", "signature", "X-Hub-Signature-256", "api_key", "API-Key", "apikey", "private key", "credentials", "cookie", "Set-Cookie",
	} {
		for name, f := range map[string]func(*slog.Logger){
			"attribute":   func(l *slog.Logger) { l.Info("m", key, "visible") },
			"bytes":       func(l *slog.Logger) { l.Info("m", key, []byte("visible")) },
			"number":      func(l *slog.Logger) { l.Info("m", key, 515151) },
			"in a group":  func(l *slog.Logger) { l.Info("m", slog.Group("g", slog.Any(key, "visible"))) },
			"a group":     func(l *slog.Logger) { l.Info("m", slog.Group(key, "a", "visible")) },
			"With":        func(l *slog.Logger) { l.With(key, "visible").Info("m") },
			"WithGroup":   func(l *slog.Logger) { l.WithGroup(key).Info("m", "a", "visible") },
			"within both": func(l *slog.Logger) { l.WithGroup("g").With(key, "visible").Info("m") },
			"in a map":    func(l *slog.Logger) { l.Info("m", "k", map[string]any{key: "visible"}) },
			"loose":       func(l *slog.Logger) { l.Info("m", "k", []slog.Attr{slog.String(key, "visible")}) },
			"loose one":   func(l *slog.Logger) { l.Info("m", "k", []any{slog.String(key, "visible")}) },
			"group in it": func(l *slog.Logger) { l.Info("m", "k", []any{slog.GroupValue(slog.String(key, "visible"))}) },
		} {
			js, text := logged(t, f)
			for _, out := range []string{js, text} {
				if strings.Contains(out, "visible") || strings.Contains(out, "515151") || !strings.Contains(out, "[redacted]") {
					t.Errorf("%s, %s: got %s", key, name, out)
				}
			}
		}
	}
}

func TestLogKeysThatHideNothing(t *testing.T) {
	js, text := logged(t, func(l *slog.Logger) { l.Info("m", "route", "a", "key", "b", "path", "c") })
	if js != `{"route":"a","key":"b","path":"c"}` || text != "route=a key=b path=c" {
		t.Errorf("got %s and %s", js, text)
	}
}

func TestLogMessagesAndKeys(t *testing.T) {
	var js, text bytes.Buffer
	keys := []string{"k" + escapes, aSecret, "a=b c\"", ""}
	for _, l := range []*slog.Logger{mustLogger(t, &js, "json", false, aSecret), mustLogger(t, &text, "text", false, aSecret)} {
		l.Warn("a"+escapes+aSecret, keys[0], 1, keys[1], 2, keys[2], 3, keys[3], 4)
	}
	if got, want := after(t, js.String(), `^\{"time":"`+stamp+`",`), `"level":"WARN","msg":"a[31mred[0m  gnp.exe2J[redacted]",`+
		`"k[31mred[0m__gnp.exe2J":1,"[redacted]":2,"a_b_c_":3,"_":4}`; got != want {
		t.Errorf("JSON:\n got %s\nwant %s", got, want)
	}
	if got, want := after(t, text.String(), `^`+stamp), ` WARN a[31mred[0m  gnp.exe2J[redacted]`+
		` k[31mred[0m__gnp.exe2J=1 [redacted]=2 a_b_c_=3 _=4`; got != want {
		t.Errorf("text:\n got %s\nwant %s", got, want)
	}
}

// An attribute named as a field of the line itself must neither vanish nor
// pass for that field.
func TestLogReservedKeys(t *testing.T) {
	js, text := logged(t, func(l *slog.Logger) {
		l.With("prefix", "p").Info("m", "time", "t", "level", "l", "msg", "x", "caller", "c", slog.Group("", "time", "u"), slog.Group("g", "level", "v"))
	})
	if want := `{"prefix_":"p","time_":"t","level_":"l","msg_":"x","caller_":"c","time_":"u","g":{"level":"v"}}`; js != want {
		t.Errorf("JSON:\n got %s\nwant %s", js, want)
	}
	if want := `prefix_=p time_=t level_=l msg_=x caller_=c time_=u g.level=v`; text != want {
		t.Errorf("text:\n got %s\nwant %s", text, want)
	}
}

func TestLogGroups(t *testing.T) {
	js, text := logged(t, func(l *slog.Logger) {
		a := l.With("one", 1).WithGroup("a").With("two", 2)
		a.WithGroup("other").With("lost", true) // must not reach a
		a.WithGroup("b").With().Info("m", "three", hiding{}, slog.Group("c", "four", escapes, slog.Group("d", "token", "t")), slog.Group("empty"))
	})
	if want := `{"one":1,"a":{"two":2,"b":{"three":"hidden","c":{"four":"[31mred[0m  gnp.exe2J","d":{"token":"[redacted]"}}}}}`; js != want {
		t.Errorf("JSON:\n got %s\nwant %s", js, want)
	}
	if want := `one=1 a.two=2 a.b.three=hidden a.b.c.four="[31mred[0m  gnp.exe2J" a.b.c.d.token=[redacted]`; text != want {
		t.Errorf("text:\n got %s\nwant %s", text, want)
	}
}

// slog's own suite: what every handler must do.
func TestLogHandlerContract(t *testing.T) {
	var b bytes.Buffer
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		b.Reset()
		return mustLogger(t, &b, "json", false).Handler()
	}, func(t *testing.T) map[string]any {
		var m map[string]any
		if err := json.Unmarshal(b.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		return m
	})
}

func TestLogExactSecrets(t *testing.T) {
	const inner, short = "sécret\" of", "abc"
	for name, f := range map[string]func(*slog.Logger){
		"string":           func(l *slog.Logger) { l.Info("m", "k", "<"+aSecret+">") },
		"error":            func(l *slog.Logger) { l.Info("m", "k", fmt.Errorf("x: %w", errors.New(aSecret))) },
		"bytes":            func(l *slog.Logger) { l.Info("m", "k", []byte(aSecret)) },
		"list":             func(l *slog.Logger) { l.Info("m", "k", []string{"a", aSecret}) },
		"struct":           func(l *slog.Logger) { l.Info("m", "k", struct{ Name string }{aSecret}) },
		"key of a map":     func(l *slog.Logger) { l.Info("m", "k", map[string]int{aSecret: 1}) },
		"group":            func(l *slog.Logger) { l.Info("m", slog.Group("g", "k", aSecret)) },
		"name of a group":  func(l *slog.Logger) { l.WithGroup(aSecret).Info("m", "k", 1) },
		"With":             func(l *slog.Logger) { l.With("k", aSecret).Info("m") },
		"LogValuer":        func(l *slog.Logger) { l.Info("m", "k", slog.AnyValue(shouting{aSecret})) },
		"escapes in it":    func(l *slog.Logger) { l.Info("m", "k", aSecret[:5]+"\x1b\a"+aSecret[5:]) },
		"the part of both": func(l *slog.Logger) { l.Info("m", "k", "x"+inner+"x") },
	} {
		js, text := logged(t, f, inner, short, aSecret)
		for _, out := range []string{js, text} {
			if strings.Contains(out, "cret") || strings.Contains(out, "of ours") || !strings.Contains(out, "[redacted]") {
				t.Errorf("%s: got %s", name, out)
			}
		}
	}
	if js, _ := logged(t, func(l *slog.Logger) { l.Info("m", "k", "an abc") }, short); js != `{"k":"an abc"}` {
		t.Errorf("a secret of three bytes: got %s", js)
	}
}

// With keeps values as they came, so that a secret learnt later is cut out.
func TestLogSecretLearntLater(t *testing.T) {
	var b bytes.Buffer
	r := new(redactor)
	l, err := newLogger(&b, logOptions{format: "json", least: slog.LevelInfo, redactor: r})
	if err != nil {
		t.Fatal(err)
	}
	l = l.With("k", aSecret)
	r.add(config.NewSecret([]byte(aSecret), "test"))
	l.Info("m")
	if got := b.String(); !strings.Contains(got, `"k":"[redacted]"`) {
		t.Errorf("got %s", got)
	}
}

func TestLogFormatsAndLevels(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	for _, c := range []struct {
		format   string
		terminal bool
		want     string
	}{
		{"auto", true, "text"}, {"auto", false, "json"}, {"text", false, "text"}, {"json", true, "json"}, {"text", true, "text"},
	} {
		var b bytes.Buffer
		mustLogger(t, &b, c.format, c.terminal).Info("hello", "k", "v")
		got := "text"
		if json.Valid(b.Bytes()) {
			got = "json"
		}
		if got != c.want {
			t.Errorf("format %s, terminal %t: got %s: %q", c.format, c.terminal, got, b.String())
		}
		if coloured := strings.Contains(b.String(), "\x1b["); coloured != (c.terminal && c.want == "text") {
			t.Errorf("format %s, terminal %t: coloured %t: %q", c.format, c.terminal, coloured, b.String())
		}
	}
	var level slog.LevelVar
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		l, err := newLogger(&b, logOptions{format: format, least: &level})
		if err != nil {
			t.Fatal(err)
		}
		for word, want := range map[string]string{"debug": "dbg inf wrn err", "info": "inf wrn err", "warn": "wrn err", "error": "err"} {
			level.Set((&App{daemon: true}).logLevel(&config.Config{Log: config.Log{Level: word}}))
			b.Reset()
			l.Debug("dbg")
			l.Info("inf")
			l.Warn("wrn")
			l.Error("err")
			if got := strings.Join(regexp.MustCompile("dbg|inf|wrn|err").FindAllString(b.String(), -1), " "); got != want {
				t.Errorf("%s at %s: got %s, want %s", format, word, got, want)
			}
		}
	}
}

func TestLogNoColour(t *testing.T) {
	for _, env := range [][2]string{{"NO_COLOR", "1"}, {"TERM", "dumb"}} {
		t.Run(env[0], func(t *testing.T) {
			t.Setenv("NO_COLOR", "")
			t.Setenv("TERM", "xterm")
			t.Setenv(env[0], env[1])
			for mode, want := range map[colorMode]bool{colorAuto: false, colorAlways: true} {
				var b bytes.Buffer
				a := &App{Err: &b, ErrTTY: true, Getenv: os.Getenv, color: mode, daemon: true}
				log, err := a.logger(&config.Config{Log: config.Log{Level: "info", Format: "auto"}}, &slog.LevelVar{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				log.Info("hello", "k", "v")
				if got := strings.Contains(b.String(), "\x1b"); got != want {
					t.Errorf("--color %s: coloured %t: %q", mode, got, b.String())
				}
			}
		})
	}
}

func TestLogRefuses(t *testing.T) {
	const want = `log format "xml" is not one of auto, text, json`
	if _, err := newLogger(io.Discard, logOptions{format: "xml", least: slog.LevelInfo}); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLogAtOnce(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		r := new(redactor)
		l, err := newLogger(&b, logOptions{format: format, terminal: true, least: slog.LevelInfo, redactor: r})
		if err != nil {
			t.Fatal(err)
		}
		const writers, lines = 8, 50
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				r.add(config.NewSecret(fmt.Appendf(nil, "%s %d", aSecret, i), "test"))
				l := l.With("writer", i, "k", aSecret).WithGroup("g")
				for range lines {
					l.Info("m", "list", []string{"a"}, "late", fmt.Sprintf("%s %d", aSecret, i))
				}
			})
		}
		wg.Wait()
		got := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if len(got) != writers*lines {
			t.Errorf("%s: %d lines, want %d", format, len(got), writers*lines)
		}
		for _, line := range got {
			if !strings.Contains(line, "[redacted]") || format == "json" && !json.Valid([]byte(line)) {
				t.Fatalf("%s: %q", format, line)
			}
		}
	}
}

func BenchmarkLog(b *testing.B) {
	for _, format := range []string{"text", "json"} {
		b.Run(format, func(b *testing.B) {
			r := new(redactor)
			r.add(config.NewSecret([]byte(aSecret), "test"))
			l, err := newLogger(struct{ io.Writer }{io.Discard}, logOptions{format: format, least: slog.LevelInfo, redactor: r})
			if err != nil {
				b.Fatal(err)
			}
			l = l.With("event_id", 1842, "delivery_id", "72d3162e-cc78-11e3-81ab-4c9367dc0958", "repository", queue.Text("acme/api"))
			b.ReportAllocs()
			for b.Loop() {
				l.Info("received", "routes", []string{"mirror", "deploy"}, "bytes", 10240)
			}
		})
	}
}
