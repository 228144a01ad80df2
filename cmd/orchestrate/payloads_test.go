//go:build unix

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

// hostile is a delivery that somebody signed who means no good, or whose program
// is broken, and what is to become of it.
type hostile struct {
	name    string
	headers []string // "Name: value"; those of the same name as an usual one take its place, and "Name" alone takes it away
	body    string

	status int // of the answer

	// Of what is stored:
	event                     string // "" is issues
	action, repo, sender, ref string // of the summary
	number                    queue.Int
	command, labelled, deep   string // what became of these routes; "" is completed of the first, no job of the others
}

const (
	done = "completed"
	form = "Content-Type: application/x-www-form-urlencoded"
)

func nested(open, end string, n int) string {
	return `{"action":"opened","deep":` + strings.Repeat(open, n) + "0" + strings.Repeat(end, n) + "}"
}

var hostiles = slices.Concat(hostileJSON, hostileNames, hostileForms, hostileHeaders)

var hostileJSON = []hostile{
	{name: "100,000 lists", body: nested("[", "]", 100_000), status: 400},
	{name: "100,000 objects", body: nested(`{"a":`, "}", 100_000), status: 400},
	{name: "lists as deep as may be", body: nested("[", "]", 9_989), status: 200, action: "opened"},
	{name: "objects as deep as may be", body: nested(`{"a":`, "}", 9_989), status: 200, action: "opened"},
	{name: "one list deeper", body: nested("[", "]", 9_990), status: 400},
	{name: "one object deeper", body: nested(`{"a":`, "}", 9_990), status: 400},

	{name: "twice at the top", body: `{"issue":{"number":1},"issue":{"number":2,"labels":[{"name":"agent"}]}}`, status: 200, number: 2, labelled: done, deep: done},
	{name: "twice within", body: `{"repository":{"full_name":"acme/a","full_name":"acme/b"}}`, status: 200, repo: "acme/b"},
	{name: "repository twice", body: `{"repository":{"full_name":"acme/a"},"repository":{}}`, status: 200},
	{name: "action twice", body: `{"action":"opened","action":"closed"}`, status: 200, action: "closed"},
	{name: "action twice, once escaped", body: `{"action":"opened","\u0061ction":"closed"}`, status: 200, action: "closed"},
	{name: "action in other letters", body: `{"Action":"opened","ACTION":"closed"}`, status: 200},

	{name: "1e400", body: `{"number":1e400,"action":1e400}`, status: 200},
	{name: "-1e400", body: `{"number":-1e400,"action":-1e400}`, status: 200, command: `dead_letter: argument 4: "-1e400" starts with "-"`},
	{name: "1e-400", body: `{"number":1e-400}`, status: 200},
	{name: "10,000 digits", body: `{"number":` + strings.Repeat("9", 10_000) + `}`, status: 200},
	{name: "-0", body: `{"number":-0}`, status: 200},
	{name: "2^53+1", body: `{"number":9007199254740993}`, status: 200, number: 9007199254740993},
	{name: "2^63", body: `{"number":9223372036854775808}`, status: 200},
	{name: "2^64", body: `{"number":18446744073709551616}`, status: 200},
	{name: "a number with a zero before", body: `{"number":07}`, status: 400},
	{name: "NaN", body: `{"number":NaN}`, status: 400},

	{name: "a lone surrogate in a value", body: `{"action":"a\ud800b"}`, status: 200, action: "ab"},
	{name: "a lone surrogate in a name", body: `{"\ud800":1,"action":"opened"}`, status: 200, action: "opened"},
	{name: "surrogates swapped", body: `{"action":"a\udc00\ud800b","\udc00\ud800":1}`, status: 200, action: "ab"},
	{
		name: "NUL in all", body: `{"action":"a\u0000b","repository":{"full_name":"acme/\u0000a"},"sender":{"login":"\u0000x"},"ref":"r\u0000"}`,
		status: 200, action: "ab", repo: "acme/a", sender: "x", ref: "r", command: "dead_letter: argument 4: a NUL byte, which no argument can hold",
	},
	{name: "NUL as it is", body: "{\"action\":\"a\x00b\"}", status: 400},
	{name: "NUL behind", body: "{\"action\":\"a\"}\x00", status: 400},
	{name: "no UTF-8 in a value", body: "{\"action\":\"a\xff\xfeb\"}", status: 200, action: "ab"},
	{name: "no UTF-8 in a name", body: "{\"a\xffction\":1,\"action\":\"opened\"}", status: 200, action: "opened"},
	{name: "overlong UTF-8", body: "{\"action\":\"a\xc0\xafb\"}", status: 200, action: "ab"},
	{name: "UTF-8 of a surrogate", body: "{\"action\":\"a\xed\xa0\x80b\"}", status: 200, action: "ab"},
	{name: "byte order mark", body: "\ufeff{}", status: 400},
	{name: "UTF-16", body: "{\x00}\x00", status: 400},

	{name: "nothing", body: "", status: 400},
	{name: "blanks", body: " \r\n\t", status: 400},
	{name: "null", body: "null", status: 400},
	{name: "a list", body: "[]", status: 400},
	{name: "a text", body: `"x"`, status: 400},
	{name: "a number", body: "0", status: 400},
	{name: "true", body: "true", status: 400},
	{name: "an empty object", body: " {} \n", status: 200},
	{name: "garbage behind", body: `{"action":"opened"}x`, status: 400},
	{name: "two documents", body: `{"action":"opened"}{"action":"closed"}`, status: 400},
	{name: "not closed", body: `{"action":"opened"`, status: 400},
	{name: "comma at the end", body: `{"action":"opened",}`, status: 400},
	{name: "a comment", body: `{/**/}`, status: 400},

	{name: "a text of 1 MB", body: `{"issue":{"title":"` + strings.Repeat("x", 1<<20) + `"}}`, status: 200, command: "dead_letter: argument 5: longer than the 131071 bytes of an argument"},
	{
		name: "an action of 1 MB", body: `{"action":"` + strings.Repeat("x", 1<<20) + `"}`, status: 200, action: strings.Repeat("x", 252) + "…",
		command: "dead_letter: argument 4: longer than the 131071 bytes of an argument",
	},
	{name: "100,000 names", body: "{" + func() string {
		var b strings.Builder
		for i := range 100_000 {
			fmt.Fprintf(&b, `"k%d":%d,`, i, i)
		}
		return b.String()
	}() + `"action":"opened"}`, status: 200, action: "opened"},
	{
		name: "a million and more values", body: `{"action":"opened","issue":{"labels":[` + strings.Repeat("0,", 1<<20) + `0]}}`, status: 200, action: "opened",
		command:  "dead_letter: argument 4: payload: 1048581 values, more than the 1048576 that",
		labelled: "dead_letter: match: filter.labels: payload: over 1048576 values", deep: "dead_letter: match: if: payload: over 1048576 values",
	},
}

var hostileNames = []hostile{
	{name: "repository a number", body: `{"repository":{"full_name":7}}`, status: 200},
	{name: "repository an object", body: `{"repository":{"full_name":{"full_name":"acme/a"}}}`, status: 200},
	{name: "repository a list", body: `{"repository":["full_name","acme/a"]}`, status: 200},
	{name: "repository null", body: `{"repository":null,"sender":null,"action":null}`, status: 200},
	{name: "action an object", body: `{"action":{"a":1}}`, status: 200, command: "dead_letter: argument 4: .action"},
	{name: "labels no list", body: `{"action":"opened","issue":{"labels":7}}`, status: 200, action: "opened"},
	{name: "issue no object", body: `{"issue":"x"}`, status: 200, command: "dead_letter: argument 5: "},
	{
		name: "control characters", body: `{"action":"a\u001b[31m\u0007\u009bb","repository":{"full_name":"acme/\u001b]0;x\u0007"},"sender":{"login":"x\r\ny"},"ref":"\u007f"}`,
		status: 200, action: "a[31mb", repo: "acme/]0;x", sender: "x  y",
	},
	{
		name: "bidi characters", body: `{"action":"a\u202eb","repository":{"full_name":"acme/\u2066\u200fa\u2069"},"sender":{"login":"\ufeffx"},"ref":"r\u2028\u2029s"}`,
		status: 200, action: "ab", repo: "acme/a", sender: "x", ref: "r  s",
	},
	{name: "shell in an argument", body: `{"action":"$(id);` + "`id`" + `&&'\"\n|","issue":{"title":"-rf\n--x $HOME %s %n"}}`, status: 200, action: "$(id);`id`&&'\" |"},
	{name: "a dash before", body: `{"action":"--option"}`, status: 200, action: "--option", command: `dead_letter: argument 4: "--option" starts with "-"`},
	{name: "a template", body: `{"action":"{{ .x }}{{ event.id }}","issue":{"labels":[{"name":"agent"}]}}`, status: 200, action: "{{ .x }}{{ event.id }}", labelled: done, deep: done},
	{
		name: "SQL", body: `{"action":"'; DROP TABLE webhook_events; --","repository":{"full_name":"a' OR '1'='1"}}`, status: 200,
		action: "'; DROP TABLE webhook_events; --", repo: "a' OR '1'='1",
	},
}

var hostileForms = []hostile{
	{name: "form", headers: []string{form}, body: "payload=%7B%22action%22%3A%22a+b%2Bc%22%7D", status: 200, action: "a b+c"},
	{name: "form in UTF-8", headers: []string{form + "; charset=utf-8"}, body: `payload={"action":"opened"}`, status: 200, action: "opened"},
	{name: "form in another charset", headers: []string{form + "; charset=utf-16"}, body: `payload={"action":"opened"}`, status: 200, action: "opened"},
	{name: "form with more fields", headers: []string{form}, body: `a=1&payload={}&b=2`, status: 200},
	{name: "form without payload", headers: []string{form}, body: `Payload={}`, status: 400},
	{name: "form with two payloads", headers: []string{form}, body: `payload={}&payload={}`, status: 400},
	{name: "form with two payloads, one escaped", headers: []string{form}, body: `payload={}&%70ayload={"action":"opened"}`, status: 400},
	{name: "form with an empty payload", headers: []string{form}, body: `payload=`, status: 400},
	{name: "form with %zz", headers: []string{form}, body: `payload={}&a=%zz`, status: 400},
	{name: "form with %", headers: []string{form}, body: `payload=%`, status: 400},
	{name: "form with a semicolon", headers: []string{form}, body: `payload={};a=1`, status: 400},
	{name: "form of 100,000 fields", headers: []string{form}, body: strings.Repeat("a=1&", 100_000) + "payload={}", status: 400},
	{name: "form of a list", headers: []string{form}, body: `payload=[]`, status: 400},
	{name: "form with NUL", headers: []string{form}, body: `payload={"action":"a%00b"}`, status: 400},
	{name: "form without UTF-8", headers: []string{form}, body: `payload={"action":"a%FFb"}`, status: 200, action: "ab"},
	{name: "JSON that says it is a form", headers: []string{form}, body: `{"payload":"{}"}`, status: 400},
	{name: "a form that says it is JSON", body: `payload={}`, status: 400},
}

var hostileHeaders = []hostile{
	{name: "no content type", headers: []string{"Content-Type"}, body: "{}", status: 415},
	{name: "an empty content type", headers: []string{"Content-Type:"}, body: "{}", status: 415},
	{name: "another content type", headers: []string{"Content-Type: text/plain"}, body: "{}", status: 415},
	{name: "a content type that is none", headers: []string{"Content-Type: application/json; ; x=\""}, body: "{}", status: 415},
	{name: "multipart", headers: []string{"Content-Type: multipart/form-data; boundary=x"}, body: "--x\r\n\r\n{}\r\n--x--", status: 415},
	{name: "a content type in capitals", headers: []string{"Content-Type: Application/JSON; Charset=\"utf-8\""}, body: "{}", status: 200},
	{name: "gzip", headers: []string{"Content-Encoding: gzip"}, body: "{}", status: 415},
	{name: "identity", headers: []string{"Content-Encoding: identity"}, body: "{}", status: 200},

	{name: "no delivery id", headers: []string{"X-GitHub-Delivery"}, body: "{}", status: 400},
	{name: "an empty delivery id", headers: []string{"X-GitHub-Delivery:"}, body: "{}", status: 400},
	{name: "two delivery ids", headers: []string{"X-GitHub-Delivery: a", "X-GitHub-Delivery: b"}, body: "{}", status: 400},
	{name: "a delivery id of 1 KB", headers: []string{"X-GitHub-Delivery: " + strings.Repeat("a", 1<<10)}, body: "{}", status: 400},
	{name: "a delivery id of any kind", headers: []string{"X-GitHub-Delivery: ../../etc/passwd %00 ' \" ü"}, body: "{}", status: 200},
	{name: "a delivery id like a number", headers: []string{"X-GitHub-Delivery: 1"}, body: "{}", status: 200},
	{name: "a control byte in a delivery id", headers: []string{"X-GitHub-Delivery: a\x01b"}, body: "{}", status: 400},
	{name: "NUL in a delivery id", headers: []string{"X-GitHub-Delivery: a\x00b"}, body: "{}", status: 400},
	{name: "a tab in a delivery id", headers: []string{"X-GitHub-Delivery: a\tb"}, body: "{}", status: 400},
	{name: "no UTF-8 in a delivery id", headers: []string{"X-GitHub-Delivery: a\xffb"}, body: "{}", status: 400},
	{name: "a bidi character in a delivery id", headers: []string{"X-GitHub-Delivery: a\u202eb"}, body: "{}", status: 400},

	{name: "no event", headers: []string{"X-GitHub-Event"}, body: "{}", status: 400},
	{name: "an event that nobody knows", headers: []string{"X-GitHub-Event: no_such_event"}, body: "{}", status: 200, event: "no_such_event"},
	{name: "two events", headers: []string{"X-GitHub-Event: push", "X-GitHub-Event: issues"}, body: "{}", status: 400},
	{name: "an event of odd characters", headers: []string{"X-GitHub-Event: a.b*{{ .x }}$(id)ü"}, body: "{}", status: 200, event: "a.b*{{ .x }}$(id)ü"},
	{name: "a control byte in an event", headers: []string{"X-GitHub-Event: a\x1bb"}, body: "{}", status: 400},
	{name: "a hook id that is none", headers: []string{"X-GitHub-Hook-ID: 99999999999999999999"}, body: "{}", status: 200},
	{name: "a signature of SHA-1", headers: []string{"X-Hub-Signature-256: sha1=" + strings.Repeat("0", 40)}, body: "{}", status: 401},
	{name: "no signature", headers: []string{"X-Hub-Signature-256"}, body: "{}", status: 401},
}

// request is what is sent, byte by byte: a client of HTTP would refuse some of it.
func (h *hostile) request(id string) []byte {
	lines := []string{
		"Content-Type: application/json", "X-GitHub-Event: issues", "X-GitHub-Delivery: " + id,
		"X-Hub-Signature-256: " + webhook.Sign([]byte(h.body), []byte(testSecret)),
	}
	for _, own := range h.headers {
		name, _, _ := strings.Cut(own, ":")
		lines = slices.DeleteFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, name+":") && !slices.Contains(h.headers, l)
		})
		if strings.Contains(own, ":") {
			lines = append(lines, own)
		}
	}
	return fmt.Appendf(nil, "POST /webhooks/github HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n\r\n%s",
		len(h.body), strings.Join(lines, "\r\n"), h.body)
}

func (h *hostile) json() []byte {
	d := delivery{contentType: "application/json", body: []byte(h.body)}
	if slices.ContainsFunc(h.headers, func(s string) bool { return strings.HasPrefix(s, form) }) {
		d.contentType = queue.FormContentType
	}
	return jsonOf(d)
}

// postRaw returns the status, and the id of the event if there is one.
func postRaw(address string, request []byte) (int, int64, error) {
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(queue.Clock().Add(30 * time.Second)); err != nil {
		return 0, 0, err
	}
	go func() { _, _ = conn.Write(request) }() // it may be refused before its end
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	var r queue.Receipt
	if err == nil && res.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &r)
	}
	return res.StatusCode, r.EventID, err
}

const hostileConfig = `
processor: {concurrency: 16}
routes:
  - name: command
    on: ["*"]
    run:
      command: [sh, -c, 'cat >"$OUT/$ORCHESTRATE_EVENT_ID"; printf %%s "$1" >"$OUT/$ORCHESTRATE_EVENT_ID.arg"; printf %%s "$ORCHESTRATE_ACTION" >"$OUT/$ORCHESTRATE_EVENT_ID.env"',
        sh, '{{ .action | default "none" }}', '--title={{ .issue.title | default "none" }}']
      env: {OUT: "%%DIR%%/out"}
  - name: forward
    on: ["*"]
    forward: {url: %q, allow_private: [127.0.0.0/8]}
  - name: labelled
    on: [issues]
    filter: {labels: [agent]}
    run: {command: ["true"]}
  - name: deep
    on: [issues]
    if: payload.?issue.?labels[?0].?name.orValue("") == "agent"
    run: {command: ["true"]}
  - name: elsewhere
    on: [issues.opened]
    filter: {repository: ["nobody/*"]}
    run: {command: ["false"]}
`

// TestHostilePayloads sends payloads that break programs through the whole of
// this one: each is refused, or stored byte by byte, and all that it starts
// ends. What can be shown of it is shown without harm.
func TestHostilePayloads(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	forwarded := map[[32]byte]int{}
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			forwarded[sha256.Sum256(body)]++
		}
	}))
	defer receiver.Close()
	p := newProgram(t, fmt.Sprintf(hostileConfig, receiver.URL))
	if err := os.Mkdir(p.path("out"), 0o700); err != nil {
		t.Fatal(err)
	}
	serve := p.serve()
	ids := sendHostile(t, p)
	p.eventually("everything has ended", p.settled)
	stored := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return id == 0 })
	details := map[int64]*queue.Detail{}
	for line := range bytes.Lines(output(t, p, show(stored, "-o", "ndjson")...)) {
		var d queue.Detail
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		details[d.ID] = &d
	}
	t.Run("stored", func(t *testing.T) {
		for i, id := range ids {
			h := &hostiles[i]
			if id == 0 {
				continue
			}
			t.Run(h.name, func(t *testing.T) { checkHostile(t, p, h, details[id]) })
			mu.Lock()
			if forwarded[sha256.Sum256([]byte(h.body))] == 0 {
				t.Errorf("%s: the receiver did not get the bytes that were sent", h.name)
			}
			mu.Unlock()
		}
	})
	t.Run("shown", func(t *testing.T) { showHostile(t, p, stored) })
	if code := serve.stop(os.Interrupt); code != 0 {
		t.Errorf("serve ended with %d, want 0", code)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	log := p.stderr.String()
	for _, bad := range []string{"panic", "goroutine ", "not stored"} {
		if i := strings.Index(log, bad); i >= 0 {
			t.Errorf("the log tells of %q: %.500s", bad, log[max(0, i-100):])
		}
	}
	plain(t, "the log", []byte(log))
}

// sendHostile returns the events' ids, 0 where there is none.
func sendHostile(t *testing.T, p *program) []int64 {
	t.Helper()
	ids := make([]int64, len(hostiles))
	var wg sync.WaitGroup
	for i := range hostiles {
		wg.Go(func() {
			status, id, err := postRaw(p.listen, hostiles[i].request(fmt.Sprintf("hostile-%d", i)))
			if err != nil || status != hostiles[i].status {
				t.Errorf("%s: answered %d, %v; want %d", hostiles[i].name, status, err, hostiles[i].status)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	return ids
}

func checkHostile(t *testing.T, p *program, h *hostile, d *queue.Detail) {
	t.Parallel()
	// The others are as the command and the receiver were given them.
	if !utf8.ValidString(h.body) || h.headers != nil || len(h.body) > 1<<16 {
		if raw := output(t, p, "events", "show", fmt.Sprint(d.ID), "--raw"); string(raw) != h.body {
			t.Errorf("%d bytes are stored that differ from the %d sent", len(raw), len(h.body))
		}
	}
	sum := sha256.Sum256([]byte(h.body))
	if d.BodySHA256 != hex.EncodeToString(sum[:]) || d.BodySize != int64(len(h.body)) {
		t.Errorf("stored are %d bytes with %s", d.BodySize, d.BodySHA256)
	}
	want := [...]any{h.event, queue.Text(h.action), queue.Text(h.repo), queue.Text(h.sender), queue.Text(h.ref), h.number}
	if h.event == "" {
		want[0] = "issues"
	}
	if got := [...]any{d.EventType, d.Action, d.Repository, d.Sender, d.Ref, d.Number}; got != want {
		t.Errorf("summary: got %q, want %q", got, want)
	}
	became := map[string]string{"command": h.command, "forward": done, "labelled": h.labelled, "deep": h.deep}
	if h.command == "" {
		became["command"] = done
	}
	for _, j := range d.Jobs {
		got := strings.TrimSuffix(string(j.Status)+": "+string(j.ErrorMessage), ": ")
		if want := became[j.Route]; want == "" || !strings.HasPrefix(got, want) {
			t.Errorf("route %s: %s, want %q", j.Route, got, want)
		}
		delete(became, j.Route)
	}
	for route, want := range became {
		if want != "" {
			t.Errorf("route %s has no job, want %q", route, want)
		}
	}
	if became["command"] = h.command; h.command == "" {
		checkGiven(t, p, h, d.ID)
	}
}

// checkGiven compares what the command was given.
func checkGiven(t *testing.T, p *program, h *hostile, id int64) {
	t.Helper()
	var top map[string]any
	d := json.NewDecoder(bytes.NewReader(h.json()))
	d.UseNumber()
	if err := d.Decode(&top); err != nil {
		t.Fatal(err)
	}
	argument := "none"
	if top["action"] != nil {
		argument = fmt.Sprint(top["action"])
	}
	for name, want := range map[string]string{"": string(h.json()), ".arg": argument, ".env": h.action} {
		if got, err := os.ReadFile(p.path(fmt.Sprintf("out/%d%s", id, name))); err != nil || string(got) != want {
			t.Errorf("the command was given %.100q in %q, want %.100q; %v", got, name, want, err)
		}
	}
}

func show(ids []int64, more ...string) []string {
	args := []string{"events", "show"}
	for _, id := range ids {
		args = append(args, fmt.Sprint(id))
	}
	return append(args, more...)
}

// showHostile prints all events in every way.
func showHostile(t *testing.T, p *program, ids []int64) {
	t.Helper()
	with := func(args []string, more ...string) []string { return slices.Concat(args, more) }
	list := []string{"events", "list", "--all"}
	for _, args := range [][]string{
		list, with(list, "-o", "wide"), with(list, "-o", "json"), with(list, "-o", "ndjson"), with(list, "-o", "yaml"), with(list, "-o", "tsv"),
		show(ids), show(ids, "--payload", "--headers"), show(ids, "--payload", "--headers", "-o", "json"),
		show(ids, "--payload", "-o", "ndjson", "--jq", "[.payload | ..] | length"),
	} {
		t.Run(strings.Join(slices.DeleteFunc(slices.Clone(args), func(s string) bool { return s[0] <= '9' && s[0] >= '0' }), " "), func(t *testing.T) {
			t.Parallel()
			out := output(t, p, args...)
			plain(t, "it", out)
			switch {
			case slices.Contains(args, "json"):
				var all []json.RawMessage // 1e400 is JSON, and no float
				if err := json.Unmarshal(out, &all); err != nil || len(all) != len(ids) {
					t.Errorf("%d are shown, want %d; %v", len(all), len(ids), err)
				}
			case slices.Contains(args, "yaml"):
				var all []any
				if err := yaml.Unmarshal(out, &all); err != nil || len(all) != len(ids) {
					t.Errorf("%d are shown, want %d; %v", len(all), len(ids), err)
				}
			case slices.Contains(args, "ndjson"):
				lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
				if len(lines) != len(ids) || slices.ContainsFunc(lines, func(l []byte) bool { return !json.Valid(l) }) {
					t.Errorf("%d lines, want %d of JSON", len(lines), len(ids))
				}
			}
		})
	}
}

// output is what a command prints, which must not fail.
func output(t *testing.T, p *program, args ...string) []byte {
	t.Helper()
	cmd := p.command(args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	return out
}

// plain holds what is printed to be UTF-8 without control characters.
func plain(t *testing.T, what string, out []byte) {
	t.Helper()
	if !utf8.Valid(out) {
		t.Errorf("%s is not in UTF-8", what)
	}
	if i := bytes.IndexFunc(out, func(r rune) bool { return r != '\n' && r != '\t' && unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) }); i >= 0 {
		t.Errorf("%s holds a control character: %q", what, out[max(0, i-50):min(len(out), i+20)])
	}
}
