package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

// clean takes everything from the environment that this package looks at, and
// returns a home directory with nothing in it.
func clean(t *testing.T) string {
	t.Helper()
	for _, k := range Keys() {
		unset(t, k.Env())
	}
	for _, name := range []string{"ORCHESTRATE_CONFIG", "ORCHESTRATE_SECRETS", SecretVariable, "STATE_DIRECTORY", "XDG_CONFIG_HOME", "XDG_STATE_HOME"} {
		unset(t, name)
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	return home
}

func unset(t *testing.T, name string) {
	t.Helper()
	t.Setenv(name, "") // so that it is put back
	if err := os.Unsetenv(name); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func file(t *testing.T, text string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "config.yaml"), text)
}

func mustLoad(t *testing.T, o Options) *Config {
	t.Helper()
	c, err := load(o, filepath.Join(t.TempDir(), "none.yaml"))
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return c
}

// refusal is the error of a load, without the path of the file.
func refusal(t *testing.T, o Options) string {
	t.Helper()
	c, err := load(o, filepath.Join(t.TempDir(), "none.yaml"))
	if err == nil {
		t.Fatalf("loaded %+v, want an error", c)
	}
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("error %v is not ErrInvalid", err)
	}
	msg := err.Error()
	if o.File != "" {
		msg = strings.ReplaceAll(msg, o.File, "FILE")
	}
	return strings.TrimPrefix(msg, "invalid configuration: ")
}

func TestDefaults(t *testing.T) {
	home := clean(t)
	got := mustLoad(t, Options{})
	away := Unavailable{Backoff{5 * time.Second, 2, 5 * time.Minute}, 24 * time.Hour}
	want := &Config{
		Hash:   got.Hash,
		Listen: "127.0.0.1:9000", AdminListen: "127.0.0.1:9001",
		Database:     filepath.Join(home, ".local", "state", "orchestrate", "orchestrate.db"),
		OnRedelivery: "requeue_dead",
		Log:          Log{"info", "auto"},
		DrainTimeout: 30 * time.Second,
		Processor:    Processor{5, 10, 5 * time.Second},
		Retry:        Retry{3, Backoff{time.Second, 2, time.Hour}, 0, away},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreFields(Config{}, "Empty")); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if !regexp.MustCompile("^[0-9a-f]{12}$").MatchString(got.Hash) {
		t.Errorf("hash = %q, want 12 hex digits", got.Hash)
	}
}

const everything = `# all there is
listen: "[::1]:80"
admin_listen: :81
database: sqlite:///var/lib/q.db
secrets: ["env:ONE", "file:secret.txt", 'file:/etc/two']
sources: [{name: acme, path: /webhooks/acme, secrets: ["file:acme"]}]
on_redelivery: ignore
log: {level: warn, format: json}
drain_timeout: 1m
processor: {concurrency: 6, batch_size: 7, poll_interval: 8s}
retry: {max: 1, base: 2s, factor: 1.5, cap: 3h, jitter: 0.25, unavailable: {base: 4s, factor: 3, cap: 5m, for: 0s}}
routes:
  - name: pr-shepherd
    on: [pull_request.opened, "*"]
    filter:
      repository: ["acme/*"]
      base_branch: [main, "release/*"]
      skip_forks: true
      labels: [agent]
      author: ["dependabot[bot]"]
      paths: ["src/**"]
      conclusion: [failure]
      author_association: [OWNER]
      sender_type: [User]
      draft: false
    if: '!payload.pull_request.draft'
    concurrency: 2
    run:
      command: [pr-shepherd, --pr, "{{ .pull_request.number }}", ""]
      dir: agents
      allow_leading_dash: true
      stdin: none
      exit_codes: {done: [0, 3], unavailable: [], permanent: [64]}
      env: {MODE: yes, my.Prop: 010, EMPTY: ""}
      pass_env: [PATH, HOME]
      timeout: 2d
      grace: 0s
    retry: &r {max: 0, unavailable: {for: 1h}}
  - name: second
    on: [push]
    run: {command: [true]}
    retry: *r
  - name: third
    on: [push]
    run: {command: [x]}
  - name: mirror
    on: ["*"]
    forward:
      url: https://mirror.example/hook
      secret: file:mirror
      headers: {Authorization: "env:TOKEN", X-Team: ops}
      timeout: 5s
      allow_private: [10.0.0.0/8]
`

func TestEverything(t *testing.T) {
	clean(t)
	path := file(t, everything)
	dir := filepath.Dir(path)
	got := mustLoad(t, Options{File: path})
	retry := Retry{1, Backoff{2 * time.Second, 1.5, 3 * time.Hour}, 0.25, Unavailable{Backoff{4 * time.Second, 3, 5 * time.Minute}, 0}}
	own := retry
	own.Max, own.Unavailable.For = 0, time.Hour
	want := &Config{
		File: path, Hash: got.Hash,
		Listen: "[::1]:80", AdminListen: ":81", Database: "/var/lib/q.db",
		Secrets:      []string{"env:ONE", "file:" + filepath.Join(dir, "secret.txt"), "file:/etc/two"},
		Sources:      []Source{{"acme", "/webhooks/acme", []string{"file:" + filepath.Join(dir, "acme")}}},
		OnRedelivery: "ignore", Log: Log{"warn", "json"}, DrainTimeout: time.Minute,
		Processor: Processor{6, 7, 8 * time.Second}, Retry: retry,
		Routes: []Route{
			{
				Name: "pr-shepherd", On: []string{"pull_request.opened", "*"},
				Filter: Filter{
					Repository: []string{"acme/*"}, BaseBranch: []string{"main", "release/*"}, SkipForks: true,
					Labels: []string{"agent"}, Author: []string{"dependabot[bot]"}, Paths: []string{"src/**"},
					Conclusion: []string{"failure"}, AuthorAssociation: []string{"OWNER"}, SenderType: []string{"User"}, Draft: new(bool),
				},
				If: "!payload.pull_request.draft", Concurrency: 2, Retry: own,
				Run: &Run{
					Command: []string{"pr-shepherd", "--pr", "{{ .pull_request.number }}", ""},
					Dir:     filepath.Join(dir, "agents"),
					Env:     map[string]string{"MODE": "yes", "my.Prop": "010", "EMPTY": ""},
					PassEnv: []string{"PATH", "HOME"}, AllowLeadingDash: true, Stdin: "none",
					ExitCodes: ExitCodes{Done: []int{0, 3}, Unavailable: []int{}, Permanent: []int{64}},
					Timeout:   48 * time.Hour, Grace: 0,
				},
			},
			{
				Name: "second", On: []string{"push"}, Retry: own,
				Run: &Run{Command: []string{"true"}, Timeout: 30 * time.Minute, Grace: 10 * time.Second},
			},
			{
				Name: "third", On: []string{"push"}, Retry: retry,
				Run: &Run{Command: []string{"x"}, Timeout: 30 * time.Minute, Grace: 10 * time.Second},
			},
			{
				Name: "mirror", On: []string{"*"}, Retry: retry,
				Forward: &Forward{
					URL: "https://mirror.example/hook", Secret: "file:" + filepath.Join(dir, "mirror"),
					Headers: map[string]string{"Authorization": "env:TOKEN", "X-Team": "ops"},
					Timeout: 5 * time.Second, AllowPrivate: []string{"10.0.0.0/8"},
				},
			},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreFields(Config{}, "Empty")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNothingInFile(t *testing.T) {
	clean(t)
	want := mustLoad(t, Options{})
	for name, text := range map[string]string{
		"empty": "", "comment": "# listen: :80\n", "null": "null\n", "separator": "---\n", "braces": "{}",
		"byte order mark": "\ufeff", "sections with nothing": "processor:\nretry:\n  unavailable:\nroutes:\nsecrets:\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := mustLoad(t, Options{File: file(t, text)})
			got.File = ""
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreFields(Config{}, "Empty")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// scalar gives three values for each key that no default has, and reads it back.
type scalar struct {
	file, env, flag string
	get             func(*Config) string
}

func scalars() map[string]scalar {
	d := func(get func(*Config) time.Duration) func(*Config) string {
		return func(c *Config) string { return FormatDuration(get(c)) }
	}
	return map[string]scalar{
		"listen":        {"a:1", "b:2", "c:3", func(c *Config) string { return c.Listen }},
		"admin_listen":  {"a:4", "b:5", "c:6", func(c *Config) string { return c.AdminListen }},
		"database":      {"/a", "/b", "/c", func(c *Config) string { return c.Database }},
		"on_redelivery": {"ignore", "ignore", "ignore", func(c *Config) string { return c.OnRedelivery }},
		"log.level":     {"warn", "error", "debug", func(c *Config) string { return c.Log.Level }},
		"log.format":    {"text", "json", "text", func(c *Config) string { return c.Log.Format }},
		"drain_timeout": {"1s", "2s", "3s", d(func(c *Config) time.Duration { return c.DrainTimeout })},
		"processor.concurrency": {"1", "2", "3", func(c *Config) string {
			return strings.Repeat("i", c.Processor.Concurrency)
		}},
		"processor.batch_size":     {"1", "2", "3", func(c *Config) string { return strings.Repeat("i", c.Processor.BatchSize) }},
		"processor.poll_interval":  {"1s", "2s", "3s", d(func(c *Config) time.Duration { return c.Processor.PollInterval })},
		"retry.max":                {"1", "2", "4", func(c *Config) string { return strings.Repeat("i", c.Retry.Max) }},
		"retry.base":               {"2s", "3s", "4s", d(func(c *Config) time.Duration { return c.Retry.Base })},
		"retry.factor":             {"1", "3", "4", func(c *Config) string { return strings.Repeat("i", int(c.Retry.Factor)) }},
		"retry.cap":                {"2h", "3h", "4h", d(func(c *Config) time.Duration { return c.Retry.Cap })},
		"retry.jitter":             {"0.25", "0.5", "0.75", func(c *Config) string { return strings.Repeat("i", int(4*c.Retry.Jitter)) }},
		"retry.unavailable.base":   {"2s", "3s", "4s", d(func(c *Config) time.Duration { return c.Retry.Unavailable.Base })},
		"retry.unavailable.factor": {"1", "3", "4", func(c *Config) string { return strings.Repeat("i", int(c.Retry.Unavailable.Factor)) }},
		"retry.unavailable.cap":    {"2h", "3h", "4h", d(func(c *Config) time.Duration { return c.Retry.Unavailable.Cap })},
		"retry.unavailable.for":    {"2h", "3h", "4h", d(func(c *Config) time.Duration { return c.Retry.Unavailable.For })},
	}
}

// shown is how get shows a value.
func shown(s string) string {
	return map[string]string{"1": "i", "2": "ii", "3": "iii", "4": "iiii", "0.25": "i", "0.5": "ii", "0.75": "iii"}[s]
}

func TestPrecedenceOfEveryKey(t *testing.T) {
	known := scalars()
	if len(known) != len(Keys()) {
		t.Errorf("%d keys are tested, there are %d", len(known), len(Keys()))
	}
	for _, k := range Keys() {
		s, ok := known[k.Name]
		if !ok {
			t.Errorf("key %s is not tested", k.Name)
			continue
		}
		for _, c := range []struct {
			name, want      string
			file, env, flag bool
		}{
			{name: "file", want: s.file, file: true},
			{name: "environment", want: s.env, env: true},
			{name: "flag", want: s.flag, flag: true},
			{name: "environment over file", want: s.env, file: true, env: true},
			{name: "flag over file", want: s.flag, file: true, flag: true},
			{name: "flag over all", want: s.flag, file: true, env: true, flag: true},
		} {
			t.Run(k.Name+"/"+c.name, func(t *testing.T) {
				clean(t)
				fs := pflag.NewFlagSet("", pflag.ContinueOnError)
				o := Options{Flags: map[string]*pflag.Flag{k.Name: k.AddFlag(fs, "the-flag")}}
				before := s.get(mustLoad(t, o))
				if c.file {
					o.File = file(t, nested(k.Name, s.file))
				}
				if c.env {
					t.Setenv(k.Env(), s.env)
				}
				if c.flag {
					if err := fs.Set("the-flag", s.flag); err != nil {
						t.Fatal(err)
					}
				}
				got, want := s.get(mustLoad(t, o)), c.want
				if w := shown(want); w != "" {
					want = w
				}
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				if got == before {
					t.Errorf("%q is the default, too: nothing is shown", got)
				}
			})
		}
	}
}

// nested writes a key with dots as YAML.
func nested(key, value string) string {
	var b strings.Builder
	parts := strings.Split(key, ".")
	for i, p := range parts {
		b.WriteString("\n" + strings.Repeat("  ", i) + p + ":")
	}
	return b.String() + " " + value + "\n"
}

func TestKeys(t *testing.T) {
	for _, k := range Keys() {
		if k.Usage == "" || strings.Contains(k.Usage, "\n") {
			t.Errorf("%s: usage %q is not one line", k.Name, k.Usage)
		}
		if k.Default == "" && k.Name != "database" {
			t.Errorf("%s has no default", k.Name)
		}
	}
	if got := (Key{Name: "retry.unavailable.for"}).Env(); got != "ORCHESTRATE_RETRY_UNAVAILABLE_FOR" {
		t.Errorf("variable = %s", got)
	}
}

func TestFlagRefuses(t *testing.T) {
	for _, k := range Keys() {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		k.AddFlag(fs, "x")
		if err := fs.Parse([]string{"--x", "\x00"}); err == nil {
			t.Errorf("%s takes a NUL byte", k.Name)
		} else if errors.Is(err, ErrInvalid) {
			t.Errorf("%s: a mistake on the command line is ErrInvalid: %v", k.Name, err)
		}
	}
}

func TestUnchangedFlagIsNoValue(t *testing.T) {
	clean(t)
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.String("listen", "flag.example:1", "")
	o := Options{File: file(t, "listen: file.example:2"), Flags: map[string]*pflag.Flag{"listen": fs.Lookup("listen")}}
	if got := mustLoad(t, o).Listen; got != "file.example:2" {
		t.Errorf("listen = %s, want the file's", got)
	}
}

func TestEmptyVariableIsUnset(t *testing.T) {
	clean(t)
	t.Setenv("ORCHESTRATE_LISTEN", "")
	t.Setenv("ORCHESTRATE_CONFIG", "")
	if got := mustLoad(t, Options{}).Listen; got != "127.0.0.1:9000" {
		t.Errorf("listen = %q, want the default", got)
	}
}

func TestRefusedValues(t *testing.T) {
	const use = "; use 90s, 30m, 12h, 30d"
	for _, c := range []struct{ key, value, want string }{
		{"listen", "9000", `"9000" is not host:port, as in 127.0.0.1:9000`},
		{"listen", "localhost:http", `"localhost:http" is not host:port, as in 127.0.0.1:9000`},
		{"listen", "localhost:65536", `"localhost:65536" is not host:port, as in 127.0.0.1:9000`},
		{"listen", "a b:1", `"a b:1" is not host:port, as in 127.0.0.1:9000`},
		{"admin_listen", "::1:80", `"::1:80" is not host:port, as in 127.0.0.1:9000`},
		{"database", "postgres://me:12/hunter2@db/q", `the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, with special characters percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass`},
		{"database", "postgresql://me:hunter2@db:x/q", `the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, with special characters percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass`},
		{"database", "postgres://me:#hunter2@db/q", `the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, with special characters percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass`},
		{"database", "postgres://me@db/q&password=hunter2", `the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, with special characters percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass`},
		{"database", "postgres://me@db/q#hunter2", `the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, with special characters percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass`},
		{"database", "postgres://me:hun@ter2@db/q", `the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, with special characters percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass`},
		{"database", "mysql://me:hunter2@db/q", `"mysql"://… is no database that this program knows; give a path, sqlite://PATH or postgres://…`},
		{"database", "postgres:/me:hunter2@db/q", `a server is named by a URL: postgres://USER@HOST:PORT/DATABASE, or postgres:// to leave it to libpq's variables; if it is a file, write sqlite://PATH`},
		{"database", "host=db password = hunter2", `a server is named by a URL: postgres://USER@HOST:PORT/DATABASE, or postgres:// to leave it to libpq's variables; if it is a file, write sqlite://PATH`},
		{"database", "sqlite://", `"sqlite://" names no file; give a path or sqlite://PATH`},
		{"database", ":memory:", `":memory:" keeps nothing; give the path of a file`},
		{"database", "~/q.db", `"~/q.db": ~ is not expanded here; write the whole path`},
		{"on_redelivery", "requeue", `"requeue" is not known here; want one of requeue_dead, ignore`},
		{"log.level", "trace", `"trace" is not known here; want one of debug, info, warn, error`},
		{"log.format", "xml", `"xml" is not known here; want one of auto, text, json`},
		{"drain_timeout", "30x", `"30x" is not a duration: no unit "x"` + use},
		{"drain_timeout", "-1d", `"-1d" is not a duration: it can't be negative` + use},
		{"drain_timeout", "30", `"30" is not a duration: add a unit to "30"` + use},
		{"processor.concurrency", "0", `"0" is not between 1 and 10000: each is a process`},
		{"processor.concurrency", "10001", `"10001" is not between 1 and 10000: each is a process`},
		{"processor.concurrency", "many", `"many" is not a whole number between 1 and 10000`},
		{"processor.batch_size", "1001", `"1001" is not between 1 and 1000: a claim is one transaction, and all other writers wait for it`},
		{"processor.poll_interval", "9ms", `"9ms" is shorter than 10ms`},
		{"retry.max", "-1", `"-1" is not between 0 and 100: waits grow with each, and the last is long past use`},
		{"retry.max", "101", `"101" is not between 0 and 100: waits grow with each, and the last is long past use`},
		{"retry.base", "0s", `"0s" is shorter than 1ms`},
		{"retry.factor", "0.9", `"0.9" is not a number between 1 and 1000`},
		{"retry.factor", "nan", `"nan" is not a number between 1 and 1000`},
		{"retry.factor", "inf", `"inf" is not a number between 1 and 1000`},
		{"retry.jitter", "1.1", `"1.1" is not a number between 0 and 1`},
		{"retry.jitter", "half", `"half" is not a number between 0 and 1`},
		{"retry.unavailable.for", "1y", `"1y" is not a duration: no unit "y"` + use},
	} {
		t.Run(c.key+" "+strings.ReplaceAll(c.value, "/", "_"), func(t *testing.T) {
			var key Key
			for _, k := range Keys() {
				if k.Name == c.key {
					key = k
				}
			}
			clean(t)
			path := file(t, nested(c.key, `"`+c.value+`"`))
			leaf := c.key[strings.LastIndex(c.key, ".")+1:]
			depth := strings.Count(c.key, ".")
			line := fmt.Sprintf("FILE:%d:%d: %s: %s", 2+depth, 2*depth+len(leaf)+3, c.key, c.want)
			if got := refusal(t, Options{File: path}); got != line {
				t.Errorf("file:\n got %s\nwant %s", got, line)
			}
			t.Setenv(key.Env(), c.value)
			if got, want := refusal(t, Options{}), key.Env()+": "+c.want; got != want {
				t.Errorf("environment:\n got %s\nwant %s", got, want)
			}
			unset(t, key.Env())
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			fs.String("the-flag", "", "")
			if err := fs.Set("the-flag", c.value); err != nil {
				t.Fatal(err)
			}
			o := Options{Flags: map[string]*pflag.Flag{c.key: fs.Lookup("the-flag")}}
			if got, want := refusal(t, o), "--the-flag: "+c.want; got != want {
				t.Errorf("flag:\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestHiddenMistakeInFileIsRefused(t *testing.T) {
	clean(t)
	t.Setenv("ORCHESTRATE_LISTEN", "127.0.0.1:1")
	got := refusal(t, Options{File: file(t, "listen: nowhere")})
	if want := `FILE:1:9: listen: "nowhere" is not host:port, as in 127.0.0.1:9000`; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestRefusedFiles(t *testing.T) {
	const route = "routes:\n- name: a\n  on: [push]\n  run: {command: [x]}\n"
	deep := func(s string) string { return "routes:\n- name: a\n  on: [push]\n  run:\n    command: [x]\n" + s }
	long := strings.Repeat("x", 65)
	for name, c := range map[string]struct{ text, want string }{
		"unknown key, close":      {"lisen: a:1", "FILE:1:1: lisen: unknown key; did you mean listen?"},
		"unknown key, far":        {"log:\n  colour: red", "FILE:2:3: log.colour: unknown key; want one of format, level"},
		"unknown key in a route":  {deep("  sources: []"), "FILE:6:3: route a: sources: unknown key; want one of concurrency, filter, forward, if, name, on, retry, run"},
		"unknown key in run":      {deep("    time_out: 1s"), "FILE:6:5: route a: run.time_out: unknown key; did you mean timeout?"},
		"unknown key, case":       {"Listen: a:1", "FILE:1:1: Listen: unknown key; did you mean listen?"},
		"unknown key, dangerous":  {"\"\\e[2J\": 1", `FILE:1:1: "\x1b[2J": unknown key; want one of admin_listen, database, drain_timeout, listen, log, on_redelivery, processor, retry, routes, secrets, sources`},
		"empty key":               {"log: {\"\": 1}", `FILE:1:7: log."": unknown key; want one of format, level`},
		"misspelt key":            {deep("  ifs: 'true'"), "FILE:6:3: route a: ifs: unknown key; did you mean if?"},
		"two handlers":            {deep("  forward: {url: 'https://x'}"), "FILE:6:12: route a: forward: stands beside run; make two routes of it"},
		"a status of two bytes":   {deep("    exit_codes: {done: [256]}"), `FILE:6:25: route a: run.exit_codes.done[0]: "256" is not between 0 and 255: exit statuses are one byte`},
		"a switch that is a word": {deep("    allow_leading_dash: yes"), `FILE:6:25: route a: run.allow_leading_dash: "yes" is neither true nor false`},
		"source github":           {"sources: [{name: github, path: /x, secrets: ['env:A']}]", `FILE:1:18: source github: name: "github" always exists, at /webhooks/github, with the secrets of the top level; choose another name`},
		"source without secrets":  {"sources: [{name: a, path: /x, secrets: []}]", `FILE:1:40: source a: secrets: empty; name at least one, as in ["file:/etc/orchestrate/acme"]`},
		"a path of two sources":   {"sources:\n- {name: a, path: /x, secrets: ['env:A']}\n- {name: b, path: /x, secrets: ['env:A']}", `FILE:3:19: source b: path: "/x" is the path of the source on line 2, too; give each its own`},
		"a path with dots":        {"sources: [{name: a, path: /../x, secrets: ['env:A']}]", `FILE:1:27: source a: path: "/../x" is no path for a source; use /words of letters, digits, dot, - and _, as in /webhooks/acme`},
		"a forward's secret":      {"routes:\n- {name: a, on: [push], forward: {url: 'https://x', secret: hunter2}}", "FILE:2:61: route a: forward.secret: no reference; write env:NAME or file:PATH, never the secret itself (what stands there is not shown)"},
		"a secret header":         {"routes:\n- name: a\n  on: [push]\n  forward:\n    url: https://x\n    headers:\n      X-Api-Key: hunter2", "FILE:7:18: route a: forward.headers.X-Api-Key: a secret by its name; write env:NAME or file:PATH, never the secret itself (what stands there is not shown)"},
		"another route's secret":  {deep("    pass_env: [M]\n- {name: b, on: [push], forward: {url: 'https://x', headers: {A: 'env:M'}}}"), `FILE:6:16: route a: run.pass_env[0]: "M" holds a secret of this program, which no command gets; remove it`},
		"key twice":               {"listen: a:1\nlisten: b:2", "FILE:2:1: listen: stands on line 1 already; leave one"},
		"variable twice":          {deep("    env:\n      A: 1\n      A: 2"), "FILE:8:7: route a: run.env.A: stands on line 7 already; leave one"},
		"two documents":           {"listen: a:1\n---\nlisten: b:2", "FILE:2:1: a second document starts here; a configuration is one: leave out the line ---"},
		"syntax":                  {"listen: a:1\n bad: [", "FILE:2: not YAML: a second colon, or a key that is indented too far; put a value that has a colon in quotes, and align the keys"},
		"syntax in 2nd document":  {"listen: a:1\n---\n\"", "FILE:3: not YAML: the file ends within quotes; close them"},
		"star without quotes":     {"routes:\n- on: [*]", "FILE:2: not YAML: a value that begins with * or &; put it in quotes"},
		"not UTF-8":               {"listen: \"\xff\"", "FILE:1:10: not YAML: a byte that is not UTF-8; save the file in UTF-8"},
		"not a mapping":           {"- listen", "FILE:1:1: a list; want keys with values, any of admin_listen, database, drain_timeout, listen, log, on_redelivery, processor, retry, routes, secrets, sources"},
		"text":                    {"hello", "FILE:1:1: a single value; want keys with values, any of admin_listen, database, drain_timeout, listen, log, on_redelivery, processor, retry, routes, secrets, sources"},
		"no value":                {"listen:", "FILE:1:8: listen: no value; give one, or leave the key out"},
		"list for a value":        {"listen: [a, b]", "FILE:1:9: listen: a list; want a single value"},
		"value for a section":     {"log: debug", `FILE:1:6: log: "debug" is a single value; want keys with values, any of format, level`},
		"merge":                   {"log: &l {level: info}\nretry:\n  <<: *l", "FILE:3:3: retry: a key that is no plain word; lists, aliases and merges (<<) are not read there"},
		"key that is a list":      {"? [a]\n: b", "FILE:1:3: a key that is no plain word; lists, aliases and merges (<<) are not read there"},
		"tag":                     {"listen: !!binary YTox", `FILE:1:9: listen: the tag "!!binary" is not read here; quote a value that begins with !`},
		"routes as mapping":       {"routes: {a: 1}", "FILE:1:9: routes: a mapping; want a list, as in [{name: deploy, on: [push], …}]"},
		"route as text":           {"routes: [a]", `FILE:1:10: routes[0]: "a" is a single value; want keys with values, any of concurrency, filter, forward, if, name, on, retry, run`},
		"empty route":             {"routes:\n-\n", "FILE:2:2: routes[0].name: missing; add it, as in name: deploy\nFILE:2:2: routes[0].on: missing; add it, as in on: [push]\nFILE:2:2: routes[0].run: missing, and so is forward: the route would do nothing; add one of them"},
		"no command":              {"routes:\n- name: a\n  on: [push]\n  run:\n", "FILE:4:7: route a: run.command: missing; add it, as in command: [make, deploy]"},
		"empty on":                {"routes:\n- name: a\n  on: []\n  run: {command: [x]}", `FILE:3:7: route a: on: empty; name at least one, as in [push, pull_request.opened], or ["*"] for all events`},
		"on as text":              {"routes:\n- name: a\n  on: push\n  run: {command: [x]}", `FILE:3:7: route a: on: "push" is a single value; want a list, as in [push, pull_request.opened], or ["*"] for all events`},
		"on with blank":           {"routes:\n- name: a\n  on: [push, ' ']\n  run: {command: [x]}", `FILE:3:14: route a: on[1]: " " is empty; write a value`},
		"empty filter":            {deep("  filter: {repository: []}"), `FILE:6:24: route a: filter.repository: empty; name at least one, as in ["acme/*"], or leave it out to let everything pass`},
		"bad name":                {strings.Replace(route, ": a", ": A b", 1), `FILE:2:9: routes[0].name: "A b" is no name for a route; use 1 to 64 of a-z, 0-9, dot, - and _, and start with a letter or digit`},
		"long name":               {strings.Replace(route, ": a", ": "+long, 1), `FILE:2:9: routes[0].name: "` + long + `" is no name for a route; use 1 to 64 of a-z, 0-9, dot, - and _, and start with a letter or digit`},
		"name twice":              {route + strings.TrimPrefix(route, "routes:\n"), `FILE:5:9: route a: name: "a" is the name of the route on line 2, too; give each its own`},
		"concurrency of a route":  {deep("  concurrency: 0"), `FILE:6:16: route a: concurrency: "0" is not between 1 and 10000: leave it out for no bound of its own`},
		"empty command":           {"routes:\n- name: a\n  on: [push]\n  run: {command: []}", "FILE:4:18: route a: run.command: empty; name at least one, as in [make, deploy]"},
		"blank program":           {"routes:\n- name: a\n  on: [push]\n  run: {command: ['', x]}", `FILE:4:18: route a: run.command[0]: "" names no program; want one as in [make, deploy]`},
		"command as shell string": {"routes:\n- name: a\n  on: [push]\n  run: {command: make all}", `FILE:4:18: route a: run.command: "make all" is a single value; want a list, as in [make, deploy]`},
		"NUL in an argument":      {"routes:\n- name: a\n  on: [push]\n  run: {command: [x, \"a\\0b\"]}", `FILE:4:22: route a: run.command[1]: "a\x00b" holds a NUL byte, which no argument or variable can`},
		"bad timeout":             {deep("    timeout: 30x"), `FILE:6:14: route a: run.timeout: "30x" is not a duration: no unit "x"; use 90s, 30m, 12h, 30d`},
		"no timeout":              {deep("    timeout: 0s"), `FILE:6:14: route a: run.timeout: "0s" is shorter than 1ms`},
		"bad grace":               {deep("    grace: 5"), `FILE:6:12: route a: run.grace: "5" is not a duration: add a unit to "5"; use 90s, 30m, 12h, 30d`},
		"home dir":                {deep("    dir: ~/x"), `FILE:6:10: route a: run.dir: "~/x": ~ is not expanded here; write the whole path`},
		"bad variable":            {deep("    env: {'A=B': 1}"), `FILE:6:11: route a: run.env."A=B": can't be a name here; want one as in {STAGE: production}`},
		"null variable":           {deep("    env: {A: }"), "FILE:6:14: route a: run.env.A: no value; give one, or leave the key out"},
		"wildcard pass_env":       {deep("    pass_env: ['*']"), `FILE:6:16: route a: run.pass_env[0]: "*" is no name of a variable; want one as in DEPLOY_ENV`},
		"secret to a command":     {deep("    pass_env: [GITHUB_WEBHOOK_SECRET]"), `FILE:6:16: route a: run.pass_env[0]: "GITHUB_WEBHOOK_SECRET" holds a secret of this program, which no command gets; remove it`},
		"own secret to a command": {deep("    pass_env: [MINE]\nsecrets: ['env:MINE']"), `FILE:6:16: route a: run.pass_env[0]: "MINE" holds a secret of this program, which no command gets; remove it`},
		"bad retry of a route":    {deep("  retry: {max: 1000}"), `FILE:6:16: route a: retry.max: "1000" is not between 0 and 100: waits grow with each, and the last is long past use`},
		"unknown retry key":       {deep("  retry: {unavailable: {four: 1h}}"), "FILE:6:25: route a: retry.unavailable.four: unknown key; did you mean for?"},
		"base above cap":          {"retry:\n  base: 2h", "FILE:2:9: retry: base 2h is longer than cap 1h; raise the cap or lower the base"},
		"cap below base":          {"retry:\n  unavailable: {cap: 1s}", "FILE:2:22: retry.unavailable: base 5s is longer than cap 1s; raise the cap or lower the base"},
		"cap of a route":          {deep("  retry:\n    cap: 1ms"), "FILE:7:5: route a: retry: base 1s is longer than cap 1ms; raise the cap or lower the base"},
		"one address":             {"listen: a:1\nadmin_listen: a:1", `FILE:2:15: admin_listen: "a:1" is also listen; give each an address of its own`},
		"several": {"listen: x\nlogg: 1\nroutes:\n- name: ''\n  on: [push]\n  run: {command: [x], timeout: 1}", strings.Join([]string{
			`FILE:1:9: listen: "x" is not host:port, as in 127.0.0.1:9000`,
			`FILE:2:1: logg: unknown key; did you mean log?`,
			`FILE:4:9: routes[0].name: "" is no name for a route; use 1 to 64 of a-z, 0-9, dot, - and _, and start with a letter or digit`,
			`FILE:6:32: routes[0].run.timeout: "1" is not a duration: add a unit to "1"; use 90s, 30m, 12h, 30d`,
		}, "\n")},
		"too many":      {"routes: [" + strings.Repeat("a,", 1001) + "]", "FILE:1:9: routes: 1001 entries; at most 1000 are read"},
		"too long":      {strings.Repeat("# long\n", 1<<18), "configuration file FILE: longer than 1048576 bytes"},
		"alias, cyclic": {"log: &l {level: *l}", "FILE:1:6: log.level: a mapping; want a single value"},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			if got := refusal(t, Options{File: file(t, c.text)}); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAnyPortTwice(t *testing.T) {
	clean(t)
	c := mustLoad(t, Options{File: file(t, "listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0")})
	if c.Listen != c.AdminListen {
		t.Errorf("listen %s, admin_listen %s", c.Listen, c.AdminListen)
	}
}

func TestWhereFilesAreFound(t *testing.T) {
	home := clean(t)
	system := write(t, filepath.Join(t.TempDir(), "etc", "config.yaml"), "listen: system:1")
	check := func(named, want string) {
		t.Helper()
		c, err := load(Options{File: named}, system)
		if err != nil {
			t.Fatalf("load: %v", err)
		}
		if c.Listen != want {
			t.Errorf("listen = %s of %s, want %s", c.Listen, c.File, want)
		}
	}
	t.Chdir(t.TempDir())
	write(t, "config.yaml", "listen: here:1")
	write(t, "orchestrate/config.yaml", "listen: here:2")
	t.Setenv("XDG_CONFIG_HOME", ".") // relative: not looked at
	check("", "system:1")
	write(t, filepath.Join(home, ".config", "orchestrate", "config.yaml"), "listen: home:1")
	check("", "home:1")
	xdgHome := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", xdgHome)
	check("", "system:1")
	write(t, filepath.Join(xdgHome, "orchestrate", "config.yaml"), "listen: xdg:1")
	check("", "xdg:1")
	t.Setenv("ORCHESTRATE_CONFIG", file(t, "listen: variable:1"))
	check("", "variable:1")
	check(file(t, "listen: flag:1"), "flag:1")
	check("config.yaml", "here:1")
}

func TestNamedFileMustBeThere(t *testing.T) {
	clean(t)
	none := filepath.Join(t.TempDir(), "none.yaml")
	want := "configuration file FILE: no such file or directory"
	if got := refusal(t, Options{File: none}); got != want {
		t.Errorf("--config: got %s, want %s", got, want)
	}
	t.Setenv("ORCHESTRATE_CONFIG", none)
	if got := refusal(t, Options{}); got != strings.Replace(want, "FILE", none, 1) {
		t.Errorf("ORCHESTRATE_CONFIG: got %s, want %s", got, want)
	}
	dir := t.TempDir()
	if got := refusal(t, Options{File: dir}); got != "configuration file FILE: is a directory" {
		t.Errorf("directory: got %s", got)
	}
}

// A link to nowhere is a file that somebody meant to be there.
func TestDanglingLinkIsNotPassedOver(t *testing.T) {
	home := clean(t)
	dir := filepath.Join(home, ".config", "orchestrate")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(home, "gone"), filepath.Join(dir, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	if got, want := refusal(t, Options{}), "config.yaml: no such file or directory"; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want ...%s", got, want)
	}
}

func TestHomeThatIsNoDirectory(t *testing.T) {
	clean(t)
	t.Setenv("HOME", "/dev/null")
	t.Setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
	if got := mustLoad(t, Options{}).Database; got != "/var/lib/one/orchestrate.db" {
		t.Errorf("database = %s", got)
	}
}

func TestDatabaseOnServer(t *testing.T) {
	clean(t)
	t.Setenv("STATE_DIRECTORY", "/var/lib/a")
	for _, test := range []struct{ url, shown string }{
		{"postgres://me:hunter2@db:5433/q?sslmode=require", "postgres://me@db:5433/q?sslmode=require"},
		{"postgresql:///q?host=/run/pg&password=hunter2", "postgresql:///q?host=%2Frun%2Fpg"},
		{"postgres://", "postgres://"}, // all from libpq's variables
	} {
		t.Setenv("ORCHESTRATE_DATABASE", test.url)
		c := mustLoad(t, Options{})
		if c.Database != test.shown || c.DatabaseURL() != test.url || c.StateDir() != "/var/lib/a" || !c.OnServer() {
			t.Errorf("%s: got %s, %s, state in %s", test.url, c.Database, c.DatabaseURL(), c.StateDir())
		}
		for _, s := range c.Settings() {
			if strings.Contains(s.Value, "hunter2") {
				t.Errorf("%s shows the password: %s", s.Key, s.Value)
			}
		}
	}
}

func TestDatabasePaths(t *testing.T) {
	home := clean(t)
	here := t.TempDir()
	t.Chdir(here)
	path := file(t, "database: data/q.db")
	check := func(name, want string, o Options) {
		t.Helper()
		if got := mustLoad(t, o).Database; got != want {
			t.Errorf("%s: database = %s, want %s", name, got, want)
		}
	}
	check("file", filepath.Join(filepath.Dir(path), "data", "q.db"), Options{File: path})
	t.Setenv("XDG_STATE_HOME", "relative")
	check("relative state home", filepath.Join(home, ".local/state/orchestrate/orchestrate.db"), Options{})
	t.Setenv("XDG_STATE_HOME", "/state")
	check("state home", "/state/orchestrate/orchestrate.db", Options{})
	t.Setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
	check("systemd", "/var/lib/a/orchestrate.db", Options{})
	t.Setenv("ORCHESTRATE_DATABASE", "sqlite://env.db")
	check("environment", filepath.Join(here, "env.db"), Options{File: path})
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.String("database", "", "")
	if err := fs.Set("database", "../flag.db"); err != nil {
		t.Fatal(err)
	}
	check("flag", filepath.Join(filepath.Dir(here), "flag.db"), Options{Flags: map[string]*pflag.Flag{"database": fs.Lookup("database")}})
	if err := fs.Set("database", ""); err != nil {
		t.Fatal(err)
	}
	got := refusal(t, Options{Flags: map[string]*pflag.Flag{"database": fs.Lookup("database")}})
	if want := `--database: "" names no file; give a path or sqlite://PATH`; got != want {
		t.Errorf("empty flag: got %s, want %s", got, want)
	}
}

func TestNoPlaceForDatabase(t *testing.T) {
	clean(t)
	t.Setenv("HOME", "")
	want := "database: none is set, and there is no home directory to keep it in; give --database PATH"
	if got := refusal(t, Options{}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestHash(t *testing.T) {
	clean(t)
	t.Setenv("XDG_STATE_HOME", "/state")
	hash := func(text string) string {
		t.Helper()
		return mustLoad(t, Options{File: file(t, text)}).Hash
	}
	base := hash("")
	if got := hash("# words\nlisten: 127.0.0.1:9000\nretry: {factor: 2.0}"); got != base {
		t.Errorf("the defaults, written out: hash %s, want %s", got, base)
	}
	seen := map[string]string{base: ""}
	for _, text := range []string{
		"listen: a:1", "retry: {max: 4}", "secrets: ['env:A']", "routes: [{name: a, on: [push], run: {command: [x]}}]",
		"routes: [{name: a, on: [push], run: {command: [x], env: {A: b}}}]",
		"routes: [{name: a, on: [push], run: {command: [x], env: {A: c}}}]",
		"routes: [{name: a, on: [push], run: {command: [x]}, retry: {jitter: 0.5}}]",
	} {
		h := hash(text)
		if other, ok := seen[h]; ok {
			t.Errorf("%q and %q have the same hash", text, other)
		}
		seen[h] = text
		if again := hash(text); again != h {
			t.Errorf("%q: hash %s, then %s", text, h, again)
		}
	}
	t.Setenv(SecretVariable, "one secret of webhooks")
	one := hash("")
	t.Setenv(SecretVariable, "another secret of webhooks")
	if two := hash(""); one != two {
		t.Errorf("the hash depends on a secret: %s, %s", one, two)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(everything)
	for _, seed := range []string{
		"", "a: &a [*a]", "retry: {max: 1", "? [a]\n: b", "routes:\n- retry: {unavailable: {for: }}\n", "--- \n---\n",
		"secrets: hunter2", "log: &l {level: *l}\nretry: *l", "\xff\xfe", "a: !!binary x", "&a a: *a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		root, err := parse("FILE", []byte(text))
		if err != nil {
			return
		}
		l := newLoader("FILE", []byte(text))
		l.read(root, Options{})
		for _, err := range l.errs {
			for _, line := range strings.Split(err.Error(), "\n") {
				if strings.ContainsFunc(line, isControl) {
					t.Errorf("error with control characters: %q", line)
				}
			}
		}
		if len(l.errs) > 0 {
			return
		}
		for _, r := range l.c.Routes {
			run, forward := r.Run, r.Forward
			good := run != nil && forward == nil && len(run.Command) > 0 && run.Timeout > 0 ||
				run == nil && forward != nil && forward.URL != "" && forward.Timeout > 0
			if !routeName.MatchString(r.Name) || len(r.On) == 0 || !good {
				t.Errorf("took the route %+v", r)
			}
		}
		if h, err := hash(&l.c); err != nil || len(h) != 12 {
			t.Errorf("hash %q, %v", h, err)
		}
	})
}

// TestEmptyListIsNotAbsent: no variable at all is something else than the usual
// ones.
func TestEmptyListIsNotAbsent(t *testing.T) {
	for text, want := range map[string]bool{"pass_env: []": true, "": false, "pass_env: *none": true} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		yaml := "secrets: &none []\nroutes:\n  - name: r\n    on: [push]\n    run:\n      command: [\"true\"]\n      " + text + "\n"
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{File: path})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Routes[0].Run.PassEnv != nil; got != want {
			t.Errorf("%q: pass_env is given: %v, want %v", text, got, want)
		}
	}
}

// TestWhere: what others find in a text is told by the line and column of the
// file that it stands in.
func TestWhere(t *testing.T) {
	clean(t)
	path := file(t, `routes:
  - name: a
    on: [push, "pull_request"]
    if: |
      event.type == "push"
        && payload.x
    run: {command: [x, '{{ y }}', "a\tb"]}
  - {name: b, on: [push], if: a == b, run: {command: [x]}}
  - name: c
    on: [push]
    if: >
      a ==
      b
    run: {command: [x]}
`)
	c := mustLoad(t, Options{File: path})
	for _, w := range []struct {
		field        string
		line, column int
		want         string
	}{
		{"routes[0].if", 0, 0, "4:9"},
		{"routes[0].if", 1, 1, "5:7"},
		{"routes[0].if", 2, 4, "6:10"},
		{"routes[0].on[0]", 1, 2, "3:11"},
		{"routes[0].on[1]", 1, 2, "3:18"},
		{"routes[0].run.command[1]", 1, 4, "7:28"},
		{"routes[0].run.command[2]", 1, 2, "7:35"}, // an escape: the file's columns are not the text's
		{"routes[1].if", 1, 6, "8:36"},
		{"routes[2].if", 1, 6, "11:9"}, // folded: likewise
		{"routes[1].filter.labels[0]", 0, 0, "8:5"},
		{"routes[9].on", 0, 0, "2:3"},
	} {
		if got, want := c.Mistake(w.field, w.line, w.column, nil).Place(), path+":"+w.want; got != want {
			t.Errorf("%s %d:%d: got %s, want %s", w.field, w.line, w.column, got, want)
		}
	}
}

func TestTooManyMistakes(t *testing.T) {
	clean(t)
	var text strings.Builder
	for i := range 3 * maxMistakes {
		fmt.Fprintf(&text, "k%d: 1\n", i)
	}
	got := strings.Split(refusal(t, Options{File: file(t, text.String())}), "\n")
	if len(got) != maxMistakes+1 || got[0] != "configuration file FILE: more than 1000 mistakes; the others are not told" {
		t.Errorf("%d lines, the first %q", len(got), got[0])
	}
}
