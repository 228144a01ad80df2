package webhook

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

func TestSign(t *testing.T) {
	// The example of docs.github.com, "Validating webhook deliveries".
	got := Sign([]byte("Hello, World!"), []byte("It's a Secret to Everybody"))
	want := "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestVerify(t *testing.T) {
	body, a, b := []byte(`{"zen":"Keep it logically awesome."}`), []byte("secret a"), []byte("secret b")
	good := Sign(body, a)
	digits := strings.TrimPrefix(good, signaturePrefix)
	for _, c := range []struct {
		name, signature string
		secrets         [][]byte
		why             string // of the refusal; empty: it fits
	}{
		{"the only secret", good, [][]byte{a}, ""},
		{"the first of two", good, [][]byte{a, b}, ""},
		{"the last of two", good, [][]byte{b, a}, ""},
		{"upper-case digits", signaturePrefix + strings.ToUpper(digits), [][]byte{a}, ""},
		{"another secret", good, [][]byte{b}, "another secret"},
		{"no secret", good, nil, "another secret"},
		{"an empty secret", Sign(body, nil), [][]byte{{}, nil}, "another secret"},
		{"an empty secret beside a good one", good, [][]byte{nil, a}, ""},
		{"another body", Sign([]byte("{}"), a), [][]byte{a}, "another secret"},
		{"none", "", [][]byte{a}, "missing"},
		{"prefix alone", signaturePrefix, [][]byte{a}, "hex digits"},
		{"no prefix", digits, [][]byte{a}, "hex digits"},
		{"SHA-1", "sha1=" + digits[:40], [][]byte{a}, "hex digits"},
		{"SHA-1 with the right digits", "sha1=" + digits, [][]byte{a}, "hex digits"},
		{"upper-case prefix", "SHA256=" + digits, [][]byte{a}, "hex digits"},
		{"63 digits", good[:len(good)-1], [][]byte{a}, "hex digits"},
		{"62 digits", good[:len(good)-2], [][]byte{a}, "hex digits"},
		{"66 digits", good + "00", [][]byte{a}, "hex digits"},
		{"not hex", good[:len(good)-1] + "g", [][]byte{a}, "hex digits"},
		{"a blank before", " " + good, [][]byte{a}, "hex digits"},
		{"a blank after", good + " ", [][]byte{a}, "hex digits"},
		{"two at once", good + "," + good, [][]byte{a}, "hex digits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Verify(c.signature, body, c.secrets)
			if c.why == "" && err != nil {
				t.Errorf("got %v, want nil", err)
			}
			if c.why != "" && (!errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("got %v, want ErrSignature that says %q", err, c.why)
			}
		})
	}
}

// delivery is a good one; edit may spoil it.
func delivery(body string, edit ...string) Delivery {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set(HeaderEvent, "issues")
	h.Set(HeaderDelivery, "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	for i := 0; i < len(edit); i += 2 {
		h.Set(edit[i], edit[i+1])
	}
	return Delivery{Source: "github", Header: h, Body: []byte(body), ReceivedAt: 1792484407123}
}

func TestParse(t *testing.T) {
	body := `{"action":"opened","issue":{"number":7},"repository":{"full_name":"acme/api"},"sender":{"login":"dana-kim"}}`
	d := delivery(body, HeaderHookID, "292430182", "User-Agent", "GitHub-Hookshot/044aadd",
		"X-GitHub-Hook-Installation-Target-Type", "repository", "X-GitHub-Enterprise-Host", "ghe.acme.example\t",
		HeaderSignature, Sign([]byte(body), []byte("s")), "X-Hub-Signature", "sha1=00", "Authorization", "Bearer x",
		"Cookie", "a=b", "X-Forwarded-For", "192.0.2.1")
	e, p, err := Parse(d)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(body))
	wantEvent := &queue.Event{
		Source: "github", DeliveryID: "72d3162e-cc78-11e3-81ab-4c9367dc0958", EventType: "issues", Action: "opened",
		Repository: "acme/api", Sender: "dana-kim", Number: 7, HookID: 292430182, ReceivedAt: 1792484407123,
		BodySize: int64(len(body)), BodySHA256: hex.EncodeToString(digest[:]),
	}
	if diff := cmp.Diff(wantEvent, e); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	wantPayload := &queue.Payload{Body: []byte(body), Headers: map[string]string{
		"Content-Type": "application/json", "User-Agent": "GitHub-Hookshot/044aadd", "X-Github-Event": "issues",
		"X-Github-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "X-Github-Hook-Id": "292430182",
		"X-Github-Hook-Installation-Target-Type": "repository", "X-Github-Enterprise-Host": "ghe.acme.example ",
	}}
	if diff := cmp.Diff(wantPayload, p); diff != "" {
		t.Errorf("payload (-want +got):\n%s", diff)
	}
}

func TestParseBoundsHeaders(t *testing.T) {
	_, p, err := Parse(delivery("{}", "User-Agent", strings.Repeat("a", 5000)))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(p.Headers["User-Agent"]); got != queue.MaxText {
		t.Errorf("kept %d bytes of a header, want %d", got, queue.MaxText)
	}
}

func TestParseForm(t *testing.T) {
	body := url.Values{"payload": {`{"action":"a b+ü"}`}}.Encode()
	for _, contentType := range []string{queue.FormContentType, "Application/X-WWW-Form-Urlencoded; Charset=UTF-8"} {
		e, p, err := Parse(delivery(body, "Content-Type", contentType))
		if err != nil {
			t.Fatalf("%s: %v", contentType, err)
		}
		if e.Action != "a b+ü" || string(p.Body) != body {
			t.Errorf("%s: got action %q and body %q, want %q and the raw %q", contentType, e.Action, p.Body, "a b+ü", body)
		}
		if doc, err := p.JSON(); err != nil || string(doc) != `{"action":"a b+ü"}` {
			t.Errorf("%s: payload as JSON is %q, %v", contentType, doc, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	form := []string{"Content-Type", queue.FormContentType}
	for _, c := range []struct {
		name string
		d    Delivery
		want error // nil: accepted
	}{
		{"an event type never seen", delivery("{}", HeaderEvent, "moon_landing"), nil},
		{"JSON with a charset in any case", delivery("{}", "Content-Type", "APPLICATION/Json; Charset=utf-8"), nil},
		{"identity", delivery("{}", "Content-Encoding", "Identity"), nil},
		{"blanks around the object", delivery(" \r\n\t{} \n"), nil},
		{"names of 255 bytes", delivery("{}", HeaderDelivery, strings.Repeat("d", 255), HeaderEvent, strings.Repeat("e", 255)), nil},

		{"no event", delivery("{}", HeaderEvent, ""), ErrBadRequest},
		{"no delivery", delivery("{}", HeaderDelivery, ""), ErrBadRequest},
		{"event of 256 bytes", delivery("{}", HeaderEvent, strings.Repeat("e", 256)), ErrBadRequest},
		{"delivery of 256 bytes", delivery("{}", HeaderDelivery, strings.Repeat("d", 256)), ErrBadRequest},
		{"tab in the event", delivery("{}", HeaderEvent, "is\tsues"), ErrBadRequest},
		{"escape in the delivery", delivery("{}", HeaderDelivery, "\x1b[2J"), ErrBadRequest},
		{"right-to-left override in the delivery", delivery("{}", HeaderDelivery, "a\u202eb"), ErrBadRequest},
		{"delivery that is not UTF-8", delivery("{}", HeaderDelivery, "a\xffb"), ErrBadRequest},

		{"no content type", delivery("{}", "Content-Type", ""), ErrUnsupported},
		{"text", delivery("{}", "Content-Type", "text/plain"), ErrUnsupported},
		{"a kind of JSON", delivery("{}", "Content-Type", "application/vnd.github+json"), ErrUnsupported},
		{"two content types", delivery("{}", "Content-Type", "application/json, text/plain"), ErrUnsupported},
		{"content type too long to keep", delivery("{}", "Content-Type", "application/json; a="+strings.Repeat("a", 300)), ErrUnsupported},
		{"gzip", delivery("{}", "Content-Encoding", "gzip"), ErrUnsupported},
		{"identity and gzip", delivery("{}", "Content-Encoding", "identity, gzip"), ErrUnsupported},

		{"empty", delivery(""), ErrBadRequest},
		{"blanks", delivery(" \n"), ErrBadRequest},
		{"not JSON", delivery("payload=1"), ErrBadRequest},
		{"cut short", delivery(`{"a":`), ErrBadRequest},
		{"two objects", delivery(`{}{}`), ErrBadRequest},
		{"byte order mark", delivery("\ufeff{}"), ErrBadRequest},
		{"array", delivery(`[{}]`), ErrBadRequest},
		{"string", delivery(`"{}"`), ErrBadRequest},
		{"null", delivery(`null`), ErrBadRequest},

		{"form without payload", delivery("a=b", form...), ErrBadRequest},
		{"form with two payloads", delivery("payload={}&payload={}", form...), ErrBadRequest},
		{"form with a bad escape", delivery("payload=%zz", form...), ErrBadRequest},
		{"form that holds no JSON", delivery("payload=x", form...), ErrBadRequest},
		{"form as JSON", delivery("payload={}"), ErrBadRequest},
		{"JSON as form", delivery("{}", form...), ErrBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, p, err := Parse(c.d)
			if !errors.Is(err, c.want) || (err == nil) != (e != nil && p != nil) {
				t.Errorf("got %v, %v, %v, want %v", e, p, err, c.want)
			}
		})
	}
}

func TestParseRefusesNameSentTwice(t *testing.T) {
	for _, key := range []string{HeaderEvent, HeaderDelivery} {
		d := delivery("{}")
		d.Header.Add(key, "other")
		if _, _, err := Parse(d); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s twice: got %v, want ErrBadRequest", key, err)
		}
	}
}

func TestParseSurvivesDepth(t *testing.T) {
	for _, open := range []string{"[", `{"a":`} {
		body := strings.Repeat(open, 26<<20/len(open))
		if _, _, err := Parse(delivery(body)); !errors.Is(err, ErrBadRequest) {
			t.Errorf("26 MB of %s: got %v, want ErrBadRequest", open, err)
		}
	}
}

// What is stored can be read when an answer of ours is put around it.
func TestParseBoundsDepth(t *testing.T) {
	for _, levels := range []int{maxDepth, maxDepth + 1} {
		for _, brackets := range [][2]string{{"[", "]"}, {`{"a":`, "}"}} {
			body := `{"a":` + strings.Repeat(brackets[0], levels-1) + "0" + strings.Repeat(brackets[1], levels-1) + "}"
			if _, _, err := Parse(delivery(body)); (err == nil) != (levels <= maxDepth) || err != nil && !errors.Is(err, ErrBadRequest) {
				t.Errorf("%d levels of %s: %v, want it refused beyond %d", levels, brackets[0], err, maxDepth)
			}
		}
	}
	flat := `{"a":[` + strings.Repeat("[],", maxDepth) + `"[[[\"[[["]}`
	if _, _, err := Parse(delivery(flat)); err != nil {
		t.Errorf("many brackets, none deep: %v", err)
	}
}

func TestParseNumbersOfHooks(t *testing.T) {
	for header, want := range map[string]queue.Int{
		"": 0, "1": 1, "9223372036854775807": 9223372036854775807,
		"9223372036854775808": 0, "-1": 0, "1.0": 0, "0x1": 0, "one": 0, "1,2": 0,
	} {
		e, _, err := Parse(delivery("{}", HeaderHookID, header))
		if err != nil {
			t.Fatalf("hook id %q: %v", header, err)
		}
		if e.HookID != want {
			t.Errorf("hook id %q: got %d, want %d", header, e.HookID, want)
		}
	}
}

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       queue.Event
	}{
		{"push", `{"ref":"refs/heads/main"}`, queue.Event{Ref: "refs/heads/main"}},
		{"create", `{"ref":"v1","ref_type":"tag"}`, queue.Event{Ref: "v1"}},
		{"pull request", `{"number":5,"pull_request":{"number":5,"head":{"ref":"fix"},"base":{"ref":"main"}}}`, queue.Event{Ref: "fix", Number: 5}},
		{"review", `{"pull_request":{"number":6,"head":{"ref":"fix"}}}`, queue.Event{Ref: "fix", Number: 6}},
		{"issue comment", `{"issue":{"number":7},"comment":{"id":1}}`, queue.Event{Number: 7}},
		{"discussion", `{"discussion":{"number":8}}`, queue.Event{Number: 8}},
		{"check run", `{"check_run":{"check_suite":{"head_branch":"fix"},"pull_requests":[{"number":5}]}}`, queue.Event{Ref: "fix"}},
		{"check suite", `{"check_suite":{"head_branch":"fix"}}`, queue.Event{Ref: "fix"}},
		{"check suite of a fork", `{"check_suite":{"head_branch":null}}`, queue.Event{}},
		{"workflow run", `{"workflow_run":{"head_branch":"main"}}`, queue.Event{Ref: "main"}},
		{"workflow job", `{"workflow_job":{"head_branch":"fix"},"deployment":{"ref":"v1"}}`, queue.Event{Ref: "fix"}},
		{"deployment status", `{"deployment":{"ref":"v1"},"workflow_run":{"head_branch":"main"}}`, queue.Event{Ref: "v1"}},
		{"merge group", `{"merge_group":{"head_ref":"refs/heads/q"}}`, queue.Event{Ref: "refs/heads/q"}},
		{"repository dispatch", `{"branch":"main"}`, queue.Event{Ref: "main"}},
		{"milestones count apart", `{"milestone":{"number":3}}`, queue.Event{}},

		{"the last of two counts", `{"action":"a","action":"b","repository":{"full_name":"x/y"},"repository":{"full_name":"x/z","full_name":"x/w"}}`, queue.Event{Action: "b", Repository: "x/w"}},
		{"the last of two, even if useless", `{"action":"a","action":null,"sender":{"login":"a"},"sender":7,"repository":{"full_name":"x/y"},"repository":{}}`, queue.Event{}},
		{"an escaped name is that name", `{"action":"a","\u0061ction":"b"}`, queue.Event{Action: "b"}},
		{"names have a case", `{"Action":"a","SENDER":{"login":"b"},"repository":{"Full_Name":"c/d"}}`, queue.Event{}},
		{"a dot is no path", `{"repository.full_name":"c/d","sender.login":"b"}`, queue.Event{}},
		{"not in an array", `{"repository":[{"full_name":"c/d"}],"sender":["login","b"]}`, queue.Event{}},
		{"not deeper", `{"x":{"action":"a"},"y":"\"action\":\"b\""}`, queue.Event{}},
		{"other types are none", `{"action":1,"repository":{"full_name":{}},"sender":{"login":true},"ref":["a"],"number":"5"}`, queue.Event{}},
		{"other types make way", `{"ref":7,"number":null,"pull_request":{"number":5,"head":{"ref":"fix"}}}`, queue.Event{Ref: "fix", Number: 5}},
		{"numbers that are none", `{"number":1.5}`, queue.Event{}},
		{"exponents are none", `{"number":1e2}`, queue.Event{}},
		{"negative numbers are none", `{"number":-4}`, queue.Event{}},
		{"numbers too large are none", `{"number":9223372036854775808}`, queue.Event{}},
		{"control characters go", `{"action":"a\u001b[2J\u0000\nb\u202e","sender":{"login":"\ud800x"}}`, queue.Event{Action: "a[2J b", Sender: "x"}},
		{"long text is cut", `{"action":"` + strings.Repeat("ä", 200) + `"}`, queue.Event{Action: queue.Text(strings.Repeat("ä", 126) + "…")}},
		{"nothing", `{}`, queue.Event{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := Parse(delivery(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, summaryOf(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func summaryOf(e *queue.Event) queue.Event {
	return queue.Event{Action: e.Action, Repository: e.Repository, Sender: e.Sender, Ref: e.Ref, Number: e.Number}
}

// sample is a payload and what is known of it.
type sample struct {
	File          string `json:"file"`
	Event         string `json:"event"`
	Action        string `json:"action"`
	Bytes         int64  `json:"bytes"`
	SHA256        string `json:"sha256"`
	HasRepository bool   `json:"has_repository"`
	HasSender     bool   `json:"has_sender"`
	body          []byte
}

// samples are those of the folder that ORCHESTRATE_TEST_PAYLOADS names, by its
// MANIFEST.json, or else the built-in examples.
func samples(t testing.TB) []sample {
	t.Helper()
	dir := os.Getenv("ORCHESTRATE_TEST_PAYLOADS")
	if dir == "" {
		return exampleSamples(t)
	}
	manifest, err := os.ReadFile(filepath.Join(dir, "MANIFEST.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []sample
	if err := json.Unmarshal(manifest, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 251 {
		t.Fatalf("%s lists %d payloads, want at least 251", dir, len(all))
	}
	for i := range all {
		if all[i].body, err = os.ReadFile(filepath.Join(dir, all[i].File)); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func exampleSamples(t testing.TB) []sample {
	t.Helper()
	actions := map[string]string{
		"check_run": "completed", "check_suite": "completed", "issues": "opened", "pull_request": "opened",
		"pull_request_review": "submitted", "push": "no-action",
	}
	all := make([]sample, 0, len(actions))
	for _, eventType := range Examples() {
		body, err := Example(eventType)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(body)
		all = append(all, sample{
			File: eventType, Event: eventType, Action: actions[eventType], Bytes: int64(len(body)),
			SHA256: hex.EncodeToString(digest[:]), HasRepository: true, HasSender: true, body: body,
		})
	}
	if len(all) != len(actions) {
		t.Fatalf("got %d examples, want %d", len(all), len(actions))
	}
	return all
}

func TestParseSamples(t *testing.T) {
	secret := []byte("a secret for tests")
	for _, s := range samples(t) {
		t.Run(s.File, func(t *testing.T) {
			if err := Verify(Sign(s.body, secret), s.body, [][]byte{secret}); err != nil {
				t.Error(err)
			}
			e, p, err := Parse(delivery(string(s.body), HeaderEvent, s.Event))
			if err != nil {
				t.Fatal(err)
			}
			if e.EventType != s.Event || e.BodySize != s.Bytes || e.BodySHA256 != s.SHA256 || !bytes.Equal(p.Body, s.body) {
				t.Errorf("got %s of %d bytes, %s, want %s of %d bytes, %s", e.EventType, e.BodySize, e.BodySHA256, s.Event, s.Bytes, s.SHA256)
			}
			var doc any
			if err := json.Unmarshal(s.body, &doc); err != nil {
				t.Fatal(err)
			}
			if got, want := summaryOf(e), decoded(doc); !cmp.Equal(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if (e.Repository != "") != s.HasRepository || (e.Sender != "") != s.HasSender {
				t.Errorf("got repository %q, sender %q, want one: %v, %v", e.Repository, e.Sender, s.HasRepository, s.HasSender)
			}
			if s.Action != "no-action" && string(e.Action) != s.Action {
				t.Errorf("got action %q, want %q", e.Action, s.Action)
			}
		})
	}
}

// decoded reads the summary from a payload that encoding/json has decoded.
func decoded(doc any) queue.Event {
	str := func(p path) queue.Text {
		s, _ := walk(doc, p).(string)
		return queue.Clean(s)
	}
	num := func(p path) queue.Int {
		switch n := walk(doc, p).(type) {
		case float64:
			return queue.Int(n)
		case json.Number:
			i, err := n.Int64()
			if err != nil {
				return 0
			}
			return queue.Int(max(i, 0))
		default:
			return 0
		}
	}
	e := queue.Event{Action: str(actionPath), Repository: str(repositoryPath), Sender: str(senderPath)}
	for _, p := range refPaths {
		if e.Ref == "" {
			e.Ref = str(p)
		}
	}
	for _, p := range numberPaths {
		if e.Number == 0 {
			e.Number = num(p)
		}
	}
	return e
}

func walk(v any, p path) any {
	for _, name := range p {
		o, _ := v.(map[string]any)
		v = o[name]
	}
	return v
}

func FuzzVerify(f *testing.F) {
	secret := []byte("a secret for tests")
	f.Add("", []byte("{}"))
	f.Add(signaturePrefix, []byte("{}"))
	f.Add(Sign([]byte("{}"), secret), []byte("{}"))
	f.Add(strings.ToUpper(Sign([]byte("{}"), secret)), []byte("{}"))
	f.Add("sha1="+strings.Repeat("0", 40), []byte("{}"))
	f.Fuzz(func(t *testing.T, signature string, body []byte) {
		err := Verify(signature, body, [][]byte{[]byte("another"), secret})
		digits, ok := strings.CutPrefix(signature, signaturePrefix)
		good := ok && signaturePrefix+strings.ToLower(digits) == Sign(body, secret)
		if (err == nil) != good || err != nil && !errors.Is(err, ErrSignature) {
			t.Errorf("signature %q, body %q: got %v, want ok %v", signature, body, err, good)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range exampleSamples(f) {
		f.Add("application/json", s.Event, s.body)
		f.Add(queue.FormContentType, s.Event, []byte(url.Values{"payload": {string(s.body)}}.Encode()))
	}
	for _, body := range []string{
		``, `[`, `{"a":`, `{"action":"a","\u0061ction":"\ud83d\ude00\ud800"}`, `{"number":1e2}`, `{"sender":{"login":"` + "\xff" + `"}}`,
		`{"repository":{"full_name":"a/b"},"repository":[]}`, `{"ref":"\u202e\u0000"}`, ` {"number" : -0 , "issue":{"number":3}} `,
	} {
		f.Add("application/json; charset=utf-8", "push", []byte(body))
		f.Add(queue.FormContentType, "push", []byte("payload="+body))
	}
	f.Fuzz(func(t *testing.T, contentType, eventType string, body []byte) {
		d := delivery(string(body), "Content-Type", contentType, HeaderEvent, eventType)
		e, p, err := Parse(d)
		if err != nil {
			if !errors.Is(err, ErrBadRequest) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("got %v, want one of this package's errors", err)
			}
			return
		}
		if !bytes.Equal(p.Body, body) || e.EventType != eventType || e.BodySize != int64(len(body)) {
			t.Errorf("body or event type changed: %q, %q", p.Body, e.EventType)
		}
		doc, err := p.JSON()
		if err != nil {
			t.Fatalf("accepted, but its JSON can't be had: %v", err)
		}
		var v any
		dec := json.NewDecoder(bytes.NewReader(doc))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("accepted, but encoding/json says %v", err)
		}
		if got, want := summaryOf(e), decoded(v); !cmp.Equal(got, want) {
			t.Errorf("%q: got %+v, encoding/json says %+v", doc, got, want)
		}
	})
}

// The summary by picking against the summary by decoding; both with validation.
func BenchmarkParse(b *testing.B) {
	body := tenKilobytes(b)
	d := delivery(string(body), HeaderEvent, "pull_request")
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, _, err := Parse(d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSummaryByPicking(b *testing.B) {
	body := tenKilobytes(b)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if !json.Valid(body) {
			b.Fatal("not valid")
		}
		summarise(&queue.Event{}, body)
	}
}

func BenchmarkSummaryByDecoding(b *testing.B) {
	body := tenKilobytes(b)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			b.Fatal(err)
		}
		decoded(v)
	}
}

// tenKilobytes is the example of a pull request as compact JSON.
func tenKilobytes(t testing.TB) []byte {
	t.Helper()
	body, err := Example("pull_request")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, body); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
