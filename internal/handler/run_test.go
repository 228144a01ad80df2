//go:build unix

package handler

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orchestrate/internal/queue"
)

func TestMain(m *testing.M) {
	if os.Getenv(varWorker) != "" {
		workForTest()
		return
	}
	goleak.VerifyTestMain(m)
}

// varWorker makes this program a worker that runs one command, for tests that
// kill it.
const (
	varWorker    = "HANDLER_TEST_WORKER"
	varContained = "HANDLER_TEST_CONTAINED" // set: its attempts get cgroups, where they can
)

func workForTest() {
	r := Run{Command: os.Args[2:]}
	if os.Getenv(varContained) != "" {
		r.Containment = DetectContainment()
	}
	h, err := NewRun(r, os.Getenv(varWorker), slog.New(slog.DiscardHandler))
	if err == nil {
		_, err = h.Handle(context.Background(), task(`{}`))
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func newRun(t testing.TB, r Run) (Handler, string) {
	t.Helper()
	work := filepath.Join(t.TempDir(), "work")
	h, err := NewRun(r, work, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatalf("NewRun(%q): %v", r.Command, err)
	}
	return h, work
}

// shell is a command with arguments for a script.
func shell(script string, args ...string) []string {
	return append([]string{"/bin/sh", "-c", script, "sh"}, args...)
}

func handle(t testing.TB, r Run, payload string) (queue.Result, error) {
	t.Helper()
	h, work := newRun(t, r)
	res, err := h.Handle(t.Context(), task(payload))
	checkEmpty(t, work)
	return res, err
}

func checkEmpty(t testing.TB, work string) {
	t.Helper()
	left, err := os.ReadDir(work)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		t.Errorf("left in the directory of attempts: %v, %v; want nothing", left, err)
	}
}

func TestOutcome(t *testing.T) {
	none := -1
	tests := []struct {
		name, script, kind, message string
		code                        int
	}{
		{"done", `exit 0`, "done", "", 0},
		{"done with output", `echo fine`, "done", "", 0},
		{"failed", `exit 1`, "retry", "exit 1", 1},
		{"last line", `echo first; echo boom; exit 1`, "retry", "exit 1: boom", 1},
		{"last line of stderr", `echo out; echo oops >&2; exit 2`, "retry", "exit 2: oops", 2},
		{"last line that is not empty", `printf 'a\n  b \n\n  \n\033\007\n'; exit 3`, "retry", "exit 3: b", 3},
		{"progress", `printf '1%%\r99%%\r'; exit 4`, "retry", "exit 4: 99%", 4},
		{"control characters", `printf 'x\033]0;y\007z'; exit 5`, "retry", "exit 5: x]0;yz", 5},
		{"long line", `printf '%0300d' 0; exit 1`, "retry", "exit 1: " + strings.Repeat("0", 197) + "…", 1},
		{"unavailable", `echo away; exit 75`, "unavailable", "exit 75: away", 75},
		{"permanent", `echo never; exit 100`, "permanent", "exit 100: never", 100},
		{"killed", `kill -9 $$`, "retry", "signal: killed", none},
		{"killed with output", `echo hm; kill -9 $$`, "retry", "signal: killed: hm", none},
		{"other signal", `kill -15 $$`, "retry", "signal: terminated", none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, err := handle(t, Run{Command: shell(tt.script)}, `{}`)
			if got := kindOf(err); got != tt.kind || message(err) != tt.message {
				t.Errorf("outcome = %s %q, want %s %q", got, message(err), tt.kind, tt.message)
			}
			code := none
			if res.ExitCode != nil {
				code = *res.ExitCode
			}
			if code != tt.code {
				t.Errorf("exit code = %d, want %d (%d: none)", code, tt.code, none)
			}
		})
	}
}

func TestNotStarted(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	many := []string{"/bin/true"}
	for range 100 {
		many = append(many, "{{ .big }}")
	}
	big := strings.Repeat("x", maxArgument)
	tests := []struct {
		name          string
		run           Run
		kind, message string
	}{
		{"no such file", Run{Command: []string{"/no/such"}}, "retry", "start /no/such: fork/exec /no/such: no such file or directory"},
		{"not in PATH", Run{Command: []string{"no-such-program"}}, "retry", `start no-such-program: exec: "no-such-program": executable file not found in $PATH`},
		{"not executable", Run{Command: []string{plain}}, "retry", "start " + plain + ": fork/exec " + plain + ": permission denied"},
		{"no such dir", Run{Command: []string{"/bin/true"}, Dir: dir + "/gone"}, "retry", "dir: stat " + dir + "/gone: no such file or directory"},
		{"too much in all", Run{Command: many}, "permanent", "start /bin/true: its arguments and environment are too long together: fork/exec /bin/true: argument list too long"},
		{"missing key", Run{Command: []string{"/bin/true", "{{ .nope }}"}}, "permanent", `argument 1: .nope: map has no entry for key "nope"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, err := handle(t, tt.run, `{"big":"`+big+`"}`)
			if got := kindOf(err); got != tt.kind || message(err) != tt.message {
				t.Errorf("outcome = %s %q, want %s %q", got, message(err), tt.kind, tt.message)
			}
			if res.ExitCode != nil || res.Output != nil {
				t.Errorf("result = %+v, want nothing", res)
			}
		})
	}
}

func TestWorkDirectoryUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := NewRun(Run{Command: []string{"/bin/true"}}, filepath.Join(file, "work"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Handle(t.Context(), task(`{}`))
	if kindOf(err) != "unavailable" || !strings.Contains(message(err), file) {
		t.Errorf("Handle error = %s %v, want unavailable, with the path", kindOf(err), err)
	}
}

func TestArgumentsReachTheCommand(t *testing.T) {
	args := []string{"{{ .title }}", "--n={{ .n }}", "a b\n$HOME 'x'", "", "{{ event.repository }}#{{ event.attempt }}"}
	res, err := handle(t, Run{Command: shell(`for a; do printf '<%s>' "$a"; done`, args...)},
		`{"title":"$(id) \"x\" -rf","n":12345678901234567890}`)
	want := `<$(id) "x" -rf><--n=12345678901234567890>` + "<a b\n$HOME 'x'><><acme/api#3>"
	if err != nil || string(res.Output) != want {
		t.Errorf("output = %s, %v; want %s", res.Output, err, want)
	}
}

func TestPayload(t *testing.T) {
	const script = `cat; echo; cat "$ORCHESTRATE_PAYLOAD_FILE"; echo
		ls -l "$ORCHESTRATE_PAYLOAD_FILE" | cut -c1-10; ls -ld "${ORCHESTRATE_PAYLOAD_FILE%/*}" | cut -c1-10`
	body := `{"text":"é & \u0000"}`
	tests := []struct {
		name        string
		contentType string
		body        string
	}{
		{"json", "application/json", body},
		{"form", "application/x-www-form-urlencoded", "payload=" + url.QueryEscape(body)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, work := newRun(t, Run{Command: shell(script)})
			in := task(tt.body)
			in.Payload.Headers["Content-Type"] = tt.contentType
			res, err := h.Handle(t.Context(), in)
			want := body + "\n" + body + "\n-rw-------\ndrwx------\n"
			if err != nil || string(res.Output) != want {
				t.Errorf("output = %s, %v; want %s", res.Output, err, want)
			}
			checkEmpty(t, work)
		})
	}
	t.Run("form without payload", func(t *testing.T) {
		h, _ := newRun(t, Run{Command: shell(script)})
		in := task("x=1")
		in.Payload.Headers["Content-Type"] = "application/x-www-form-urlencoded"
		if _, err := h.Handle(t.Context(), in); kindOf(err) != "permanent" {
			t.Errorf("outcome = %s %v, want permanent", kindOf(err), err)
		}
	})
}

func TestHugePayload(t *testing.T) {
	payload := `"` + strings.Repeat("x", 25<<20) + `"`
	t.Run("unread", func(t *testing.T) {
		if _, err := handle(t, Run{Command: []string{"/bin/true"}, Timeout: time.Minute}, payload); err != nil {
			t.Errorf("Handle = %v, want nil", err)
		}
	})
	t.Run("read", func(t *testing.T) {
		res, err := handle(t, Run{Command: []string{"wc", "-c"}}, payload)
		if got, want := strings.TrimSpace(string(res.Output)), strconv.Itoa(len(payload)); got != want || err != nil {
			t.Errorf("read %s bytes, %v; want %s", got, err, want)
		}
	})
}

func TestEnvironment(t *testing.T) {
	t.Setenv("PATH", "/usr/bin:/bin")
	t.Setenv("HOME", "/home/me")
	t.Setenv("GITHUB_WEBHOOK_SECRET", "s3cret")
	t.Setenv("ORCHESTRATE_DATABASE", "/x")
	t.Setenv("ACME_TOKEN", "t0ken")
	t.Setenv("LEAK", "leak")
	for _, name := range []string{"USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"} {
		t.Setenv(name, "x")
		if err := os.Unsetenv(name); err != nil { // Setenv puts it back
			t.Fatal(err)
		}
	}
	ours := []string{
		"ORCHESTRATE_ACTION=opened", "ORCHESTRATE_ATTEMPT=3", "ORCHESTRATE_DELIVERY_ID=d-1", "ORCHESTRATE_EVENT=pull_request",
		"ORCHESTRATE_EVENT_ID=42", "ORCHESTRATE_IDEMPOTENCY_KEY=github/d-1/deploy", "ORCHESTRATE_PAYLOAD_FILE=…",
		"ORCHESTRATE_REPOSITORY=acme/api", "ORCHESTRATE_ROUTE=deploy",
	}
	tests := []struct {
		name string
		run  Run
		want []string
	}{
		{"default", Run{}, []string{"HOME=/home/me", "PATH=/usr/bin:/bin"}},
		{"nothing", Run{PassEnv: []string{}}, nil},
		{"named", Run{PassEnv: []string{"ACME_TOKEN", "NOT_SET"}}, []string{"ACME_TOKEN=t0ken"}},
		{
			"values",
			Run{PassEnv: []string{"PATH", "HOME"}, Env: map[string]string{"HOME": "/srv", "MODE": "a=b", "E": ""}},
			[]string{"E=", "HOME=/srv", "MODE=a=b", "PATH=/usr/bin:/bin"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.run.Command = []string{"/usr/bin/env"}
			res, err := handle(t, tt.run, `{}`)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Fields(string(res.Output))
			slices.Sort(got)
			for i, v := range got {
				if strings.HasPrefix(v, varPayloadFile) {
					got[i] = varPayloadFile + "=…"
				}
			}
			want := append(slices.Clone(tt.want), ours...)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("environment = %q, want %q", got, want)
			}
		})
	}
}

func TestNewRunRefuses(t *testing.T) {
	ok := []string{"true"}
	tests := []struct {
		name string
		run  Run
		want string // part of the message
	}{
		{"no command", Run{}, "run.command: empty"},
		{"no program", Run{Command: []string{""}}, "run.command: empty"},
		{"program from the payload", Run{Command: []string{"{{ .x }}"}}, `run.command[0]: "{{ .x }}": the program can't be a template`},
		{"NUL", Run{Command: []string{"true", "a\x00"}}, "run.command[1]: a NUL byte"},
		{"NUL in the program", Run{Command: []string{"tr\x00ue"}}, "run.command[0]: a NUL byte"},
		{"long argument", Run{Command: []string{"true", strings.Repeat("x", maxArgument+1)}}, "run.command[1]: longer than the 131071 bytes"},
		{"two at once", Run{Command: []string{"true", "a\x00", "{{"}}, "run.command[1]: a NUL byte, which no argument can hold\nrun.command[2]: 1:1: {{ is not closed"},
		{"NUL in dir", Run{Command: ok, Dir: "/x\x00"}, `run.dir: "/x\x00"`},
		{"secret", Run{Command: ok, PassEnv: []string{"PATH", "GITHUB_WEBHOOK_SECRET"}}, "run.pass_env[1]: \"GITHUB_WEBHOOK_SECRET\": holds a secret"},
		{"secret by reference", Run{Command: ok, PassEnv: []string{"ACME"}, Secrets: []string{"ACME"}}, "run.pass_env[0]: \"ACME\": holds a secret"},
		{"ours", Run{Command: ok, PassEnv: []string{"ORCHESTRATE_DATABASE"}}, "run.pass_env[0]: \"ORCHESTRATE_DATABASE\": names that start with"},
		{"ours, set", Run{Command: ok, Env: map[string]string{"ORCHESTRATE_ROUTE": "x"}}, "run.env.ORCHESTRATE_ROUTE: names that start with"},
		{"no name", Run{Command: ok, PassEnv: []string{""}}, `run.pass_env[0]: "": no name`},
		{"name with =", Run{Command: ok, Env: map[string]string{"A=B": "x"}}, `run.env."A=B": no name`},
		{"NUL in a value", Run{Command: ok, Env: map[string]string{"A": "\x00"}}, "run.env.A: its value holds a NUL"},
		{"negative timeout", Run{Command: ok, Timeout: -time.Second}, "run.timeout: -1s"},
		{"negative grace", Run{Command: ok, Grace: -time.Second}, "run.grace: -1s"},
		{"stdin, misspelt", Run{Command: ok, Stdin: "paylod"}, `run.stdin: "paylod" is neither a word for it nor a template; did you mean payload?`},
		{"stdin, another word", Run{Command: ok, Stdin: "terminal"}, `want payload, none, or a template with {{ }}`},
		{"stdin, a bad template", Run{Command: ok, Stdin: "x\n{{ .x | lowr }}"}, "run.stdin: 2:9: unknown function lowr; did you mean lower?"},
		{"stdin, too long", Run{Command: ok, Stdin: "{{ .x }}" + strings.Repeat("x", maxStdin)}, "run.stdin: longer than the 1048576 bytes"},
		{"exit status over 255", Run{Command: ok, ExitCodes: ExitCodes{Done: []int{0, 256}}}, "run.exit_codes.done[1]: 256: an exit status is between 0 and 255"},
		{"exit status below 0", Run{Command: ok, ExitCodes: ExitCodes{Permanent: []int{-1}}}, "run.exit_codes.permanent[0]: -1"},
		{"exit status in two lists", Run{Command: ok, ExitCodes: ExitCodes{Unavailable: []int{1}, Permanent: []int{2, 1}}}, "run.exit_codes.permanent[1]: 1 is in unavailable already"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewRun(tt.run, t.TempDir(), slog.New(slog.DiscardHandler))
			var field *queue.FieldError
			if !errors.As(err, &field) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewRun error = %v, want one of a field, with %s", err, tt.want)
			}
		})
	}
}

func TestDirIsChecked(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o600); err != nil {
		t.Fatal(err)
	}
	notEntered := closed + " can't be entered by the user who runs this: permission denied"
	if os.Geteuid() == 0 {
		notEntered = "" // root enters everywhere
	}
	tests := []struct{ name, dir, want string }{
		{"none", "", ""},
		{"a directory", dir, ""},
		{"missing", dir + "/gone", dir + "/gone is not there; create it, or name another"},
		{"a file", file, file + " is no directory; name the one that the command is to run in"},
		{"below a file", file + "/x", "stat " + file + "/x: not a directory"},
		{"closed", closed, notEntered},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Run{Command: []string{"true"}, Dir: tt.dir}
			if _, err := NewRun(r, dir, slog.New(slog.DiscardHandler)); err != nil {
				t.Errorf("NewRun without a check = %v, want nil", err)
			}
			r.CheckDir = true
			_, err := NewRun(r, dir, slog.New(slog.DiscardHandler))
			want := ""
			if tt.want != "" {
				want = "run.dir: " + tt.want
			}
			if message(err) != want {
				t.Errorf("NewRun error = %q, want %q", message(err), want)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	tests := []struct {
		name  string
		codes ExitCodes
		want  map[int]string
	}{
		{"defaults", ExitCodes{}, map[int]string{0: "done", 1: "retry", 75: "unavailable", 100: "permanent", 255: "retry"}},
		{"lists", ExitCodes{Done: []int{0, 3}, Unavailable: []int{4}, Permanent: []int{2, 255}}, map[int]string{0: "done", 3: "done", 4: "unavailable", 2: "permanent", 255: "permanent", 75: "retry", 100: "retry", 1: "retry"}},
		{"empty lists", ExitCodes{Done: []int{}, Unavailable: []int{}, Permanent: []int{}}, map[int]string{0: "retry", 75: "retry", 100: "retry"}},
		{"one list leaves the others", ExitCodes{Permanent: []int{2}}, map[int]string{0: "done", 75: "unavailable", 2: "permanent", 100: "retry"}},
		{"a default elsewhere", ExitCodes{Done: []int{0, 100}, Permanent: []int{75}}, map[int]string{0: "done", 100: "done", 75: "permanent"}},
		{"0 is permanent", ExitCodes{Permanent: []int{0}}, map[int]string{0: "permanent", 100: "retry", 75: "unavailable"}},
		{"0 is not done", ExitCodes{Done: []int{3}}, map[int]string{0: "retry", 3: "done"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, _ := newRun(t, Run{Command: shell(`exit $1`, "{{ .code }}"), ExitCodes: tt.codes})
			for code, want := range tt.want {
				res, err := h.Handle(t.Context(), task(`{"code":`+strconv.Itoa(code)+`}`))
				if got := kindOf(err); got != want || res.ExitCode == nil || *res.ExitCode != code {
					t.Errorf("exit %d = %s %v, %+v; want %s", code, got, err, res, want)
				}
				if want != "done" && message(err) != "exit "+strconv.Itoa(code) {
					t.Errorf("exit %d: message %q", code, message(err))
				}
			}
		})
	}
}

func TestStdin(t *testing.T) {
	const body = `{"title":"-rf $(id)","null":null,"n":12345678901234567890,"nul":"a\u0000b","labels":[{"name":"a<b"}]}`
	tests := []struct{ name, stdin, kind, want string }{
		{"by default", "", "done", body},
		{"payload", "payload", "done", body},
		{"none", "none", "done", ""},
		{"template", "{{ .title }}\n#{{ .n }} {{ event.repository }}", "done", "-rf $(id)\n#12345678901234567890 acme/api"},
		{"template with json", `Labels: {{ .labels | json }}`, "done", `Labels: [{"name":"a<b"}]`},
		{"NUL", `{{ .nul }}`, "done", "a\x00b"},
		{"nothing", `{{ with .null }}x{{ end }}`, "done", ""},
		{"null", `{{ .null }}`, "permanent", `stdin: .null is null; default says what to use then, as in {{ .x | default "none" }}`},
		{"missing", `{{ .nope }}`, "permanent", `stdin: .nope: map has no entry for key "nope"`},
		{"missing, by default", `{{ .nope | default "none" }}`, "done", "none"},
		{"too long", `{{ range .labels }}{{ printf "%1000000s%1000000s" .name .name }}{{ end }}`, "permanent", "stdin: longer than the 1048576 bytes of a text on standard input; stdin: payload has no bound"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const script = `cat; cmp -s "$ORCHESTRATE_PAYLOAD_FILE" - < /dev/null && exit 1; test -s "$ORCHESTRATE_PAYLOAD_FILE"`
			res, err := handle(t, Run{Command: shell(script), Stdin: tt.stdin}, body)
			got := string(res.Output)
			if err != nil {
				got = message(err)
			}
			if kindOf(err) != tt.kind || got != tt.want {
				t.Errorf("outcome = %s %q, want %s %q", kindOf(err), got, tt.kind, tt.want)
			}
		})
	}
	t.Run("a file of its own", func(t *testing.T) {
		const script = `cd "${ORCHESTRATE_PAYLOAD_FILE%/*}"; ls -l | cut -c1-10; ls; readlink -f /dev/stdin | xargs basename`
		res, err := handle(t, Run{Command: shell(script), Stdin: "{{ .n }}"}, body)
		_, got, _ := strings.Cut(string(res.Output), "\n") // behind the total
		if want := "-rw-------\n-rw-------\npayload.json\nstdin\nstdin\n"; err != nil || got != want {
			t.Errorf("output = %q, %v; want %q", got, err, want)
		}
	})
}

func TestLeadingDash(t *testing.T) {
	r := Run{Command: []string{"/bin/echo", "x", "{{ .dash }}"}}
	if _, err := handle(t, r, `{"dash":"-rf"}`); kindOf(err) != "permanent" || !strings.Contains(message(err), `"-rf" starts with "-"`) {
		t.Errorf("outcome = %s %v, want permanent", kindOf(err), err)
	}
	r.AllowLeadingDash = true
	if res, err := handle(t, r, `{"dash":"-rf"}`); err != nil || string(res.Output) != "x -rf\n" {
		t.Errorf("output = %q, %v; want x -rf", res.Output, err)
	}
}

func TestPreview(t *testing.T) {
	env := func(more ...string) []string {
		all := append(more, "ORCHESTRATE_ACTION", "ORCHESTRATE_ATTEMPT", "ORCHESTRATE_DELIVERY_ID", "ORCHESTRATE_EVENT", "ORCHESTRATE_EVENT_ID",
			"ORCHESTRATE_IDEMPOTENCY_KEY", "ORCHESTRATE_PAYLOAD_FILE", "ORCHESTRATE_REPOSITORY", "ORCHESTRATE_ROUTE")
		slices.Sort(all)
		return all
	}
	t.Setenv("ACME_TOKEN", "t0ken")
	pass := []string{"ACME_TOKEN", "NOT_SET"}
	tests := []struct {
		name string
		run  Run
		want RunPreview
		err  string
	}{
		{"payload", Run{Command: []string{"agent", "--pr={{ .n }}"}, Dir: "/srv", PassEnv: pass}, RunPreview{[]string{"agent", "--pr=7"}, "/srv", env("ACME_TOKEN"), "payload"}, ""},
		{"none", Run{Command: []string{"agent"}, Stdin: "none", PassEnv: []string{}}, RunPreview{[]string{"agent"}, "", env(), "none"}, ""},
		{"template", Run{Command: []string{"agent", "-"}, Stdin: "fix {{ .n }}", Env: map[string]string{"Z": "s3cret"}, PassEnv: []string{}}, RunPreview{[]string{"agent", "-"}, "", env("Z"), "fix 7"}, ""},
		{"permanent failure", Run{Command: []string{"agent", "{{ .nope }}"}}, RunPreview{}, `argument 1: .nope: map has no entry for key "nope"`},
		{"permanent failure of stdin", Run{Command: []string{"agent"}, Stdin: "{{ .nope }}"}, RunPreview{}, `stdin: .nope: map has no entry for key "nope"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, work := newRun(t, tt.run)
			p, err := h.Preview(task(`{"n":7}`))
			if message(err) != tt.err || tt.err != "" && kindOf(err) != "permanent" {
				t.Fatalf("Preview error = %s %v, want %q", kindOf(err), err, tt.err)
			}
			if tt.err == "" && !reflect.DeepEqual(*p.Run, tt.want) {
				t.Errorf("Preview = %+v, want %+v", *p.Run, tt.want)
			}
			if _, err := os.Stat(work); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory of attempts: %v; want it not to be made", err)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script, message string
	}{
		{"hangs", `exec sleep 1000`, "timed out after 1s"},
		{"hangs in a child", `sleep 1000; echo never`, "timed out after 1s"},
		{"tells where", `echo waiting; exec sleep 1000`, "timed out after 1s: waiting"},
		{"ignores TERM", `trap '' TERM; echo deaf; while :; do sleep 1000; done`, "timed out after 1s: deaf"},
		{"ends well, but late", `trap 'exit 0' TERM; echo x; while :; do sleep 1000 & wait; done`, "timed out after 1s: x"},
		{"is stopped", `echo x; kill -STOP $$`, "timed out after 1s: x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := handle(t, Run{Command: shell(tt.script), Timeout: time.Second, Grace: 100 * time.Millisecond}, `{}`)
			if kindOf(err) != "retry" || message(err) != tt.message {
				t.Errorf("outcome = %s %q, want retry %q", kindOf(err), message(err), tt.message)
			}
		})
	}
}

// fifo makes a named pipe. A command tells by it that it is ready, as the first
// argument of its script; what it writes is returned by the function.
func fifo(t testing.TB) (path string, wait func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ready")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func() string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
}

func TestContextEnds(t *testing.T) {
	// A shell could lose a signal right after it has forked, so the child says that it is ready.
	const (
		sleeper = `sh -c 'echo > "$1"; exec sleep 1000' sh "$1" & wait`
		polite  = `trap 'echo clean; exit 0' TERM; ` + sleeper
		deaf    = `trap 'echo got term' TERM; ` + sleeper + `; while :; do sleep 1000 & wait; done`
		child   = `( trap 'echo child clean; exit' TERM; ` + sleeper + ` ) & wait`
	)
	other := errors.New("cancelled")
	tests := []struct {
		name, script string
		cause        error
		grace        time.Duration
		output       string
		message      string
	}{
		{"stop, and it ends", polite, queue.ErrStopped, time.Hour, "clean\n", "stopped: clean"},
		{"stop, and its child ends after it", child, queue.ErrStopped, time.Hour, "child clean\n", "stopped: child clean"},
		{"stop, and it does not end", deaf, queue.ErrStopped, 100 * time.Millisecond, "got term\n", "stopped: got term"},
		{"lease lost: no grace", polite, queue.ErrLeaseLost, time.Hour, "", "lease lost"},
		{"other cause: no grace", deaf, other, time.Hour, "", "cancelled"},
		{"no cause: no grace", deaf, nil, time.Hour, "", "context canceled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, ready := fifo(t)
			h, work := newRun(t, Run{Command: shell(tt.script, path), Grace: tt.grace})
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				ready()
				cancel(tt.cause)
			}()
			res, err := h.Handle(ctx, task(`{}`))
			if !errors.Is(err, context.Cause(ctx)) || message(err) != tt.message {
				t.Errorf("Handle error = %v, want %s", err, tt.message)
			}
			if string(res.Output) != tt.output {
				t.Errorf("output = %q, want %q", res.Output, tt.output)
			}
			checkEmpty(t, work)
		})
	}
}

func TestContextEndedBefore(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	h, _ := newRun(t, Run{Command: []string{"touch", mark}})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(queue.ErrStopped)
	if _, err := h.Handle(ctx, task(`{}`)); !errors.Is(err, queue.ErrStopped) {
		t.Errorf("Handle error = %v, want %v", err, queue.ErrStopped)
	}
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the command ran: %v", err)
	}
}

// TestContextEndsTooLate: what the command had done by then stands.
func TestContextEndsTooLate(t *testing.T) {
	h := &run{codes: map[int]outcome{0: done}}
	for _, cause := range []error{queue.ErrStopped, queue.ErrLeaseLost} {
		for status, want := range map[string]error{"0": nil, "1": cause} {
			t.Run(cause.Error()+" "+status, func(t *testing.T) {
				for range 20 { // either branch of the select
					ctx, cancel := context.WithCancelCause(t.Context())
					p, err := start(exec.CommandContext(t.Context(), "/bin/sh", "-c", "exit "+status), "")
					if err != nil {
						t.Fatal(err)
					}
					<-p.exited
					cancel(cause)
					res, err := h.verdict(ctx, p, p.watch(ctx, time.Hour, time.Hour))
					if !errors.Is(err, want) || res.ExitCode == nil || strconv.Itoa(*res.ExitCode) != status {
						t.Fatalf("verdict = %+v, %v; want exit code %s, %v", res, err, status, want)
					}
				}
			})
		}
	}
}

func TestHugeOutput(t *testing.T) {
	const size = 1 << 30
	h, _ := newRun(t, Run{Command: []string{"head", "-c", strconv.Itoa(size), "/dev/zero"}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := h.Handle(t.Context(), task(`{}`))
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("allocated %d bytes in all, want at most 1 MiB", n)
	}
	if len(res.Output) > queue.MaxOutput {
		t.Errorf("kept %d bytes, want at most %d", len(res.Output), queue.MaxOutput)
	}
	kept := bytes.Count(res.Output, []byte{0})
	mark := strings.Trim(string(res.Output), "\x00")
	if want := "\n[" + strconv.Itoa(size-kept) + " bytes left out]\n"; mark != want || kept != headSize+tailSize {
		t.Errorf("between %d kept bytes stands %q, want %q", kept, mark, want)
	}
}

func TestManyAtOnce(t *testing.T) {
	h, work := newRun(t, Run{Command: shell(`cat > /dev/null; sleep 1000 & echo $1`, "{{ .n }}")})
	ctx, cancel := context.WithCancel(t.Context())
	var sweeper, attempts sync.WaitGroup
	sweeper.Go(func() {
		for ctx.Err() == nil {
			if err := Sweep(work); err != nil {
				t.Errorf("Sweep: %v", err)
			}
		}
	})
	for i := range 32 {
		attempts.Go(func() {
			res, err := h.Handle(t.Context(), task(`{"n":`+strconv.Itoa(i)+`}`))
			if got, want := string(res.Output), strconv.Itoa(i)+"\n"; err != nil || got != want {
				t.Errorf("output = %q, %v; want %q", got, err, want)
			}
		})
	}
	attempts.Wait()
	cancel()
	sweeper.Wait()
	checkEmpty(t, work)
}

func BenchmarkHandle(b *testing.B) { benchmarkHandle(b, nil) }

// BenchmarkHandleContained is BenchmarkHandle with what a cgroup costs, where
// one can be made.
func BenchmarkHandleContained(b *testing.B) {
	c := DetectContainment()
	b.Logf("containment: %s %s", c, c.Why())
	benchmarkHandle(b, c)
}

func benchmarkHandle(b *testing.B, c *Containment) {
	h, _ := newRun(b, Run{Command: []string{"/bin/true", "{{ .number }}"}, Containment: c})
	in := task(`{"number":1,"body":"` + strings.Repeat("x", 10<<10) + `"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Handle(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExec is what the operating system and os/exec take of BenchmarkHandle.
func BenchmarkExec(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if out, err := exec.CommandContext(b.Context(), "/bin/true", "1").CombinedOutput(); err != nil {
			b.Fatal(err, out)
		}
	}
}
