package webhook

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

// FuzzHeaders parses a body that is good with headers as they may come, one a
// line. What is kept must be of the list, short and printable, and whoever reads
// the kept ones later must take the delivery for the same.
func FuzzHeaders(f *testing.F) {
	good := "Content-Type: application/json\nX-GitHub-Event: push\nX-GitHub-Delivery: d\n"
	for _, more := range []string{
		"", "Content-Encoding: gzip\n", "Content-Encoding: identity\nContent-Encoding: br\n", "X-GitHub-Hook-ID: 9223372036854775808\n",
		"X-GitHub-Event: issues\n", "Authorization: Bearer x\nCookie: a=b\nX-Hub-Signature-256: sha256=0\n", "User-Agent: a\x1b[2J\u202e\xff\n",
		"x-github-event: lower\n", "Content-Type: text/plain\n", "User-Agent: " + strings.Repeat("é", 300) + "\n", "User-Agent: a\r\n b\n",
	} {
		f.Add(good + more)
		f.Add(more)
	}
	f.Add("Content-Type: application/json; charset=\"\x00\"\nX-GitHub-Event: push\nX-GitHub-Delivery: d\n")
	f.Add("Content-Type: application/json;a=" + strings.Repeat("b", 300) + "\nX-GitHub-Event: \u00a0\nX-GitHub-Delivery: \u00ad\n")
	f.Fuzz(func(t *testing.T, text string) {
		h := http.Header{}
		for line := range strings.SplitSeq(text, "\n") {
			key, value, _ := strings.Cut(line, ":")
			h.Add(key, strings.TrimLeft(value, " "))
		}
		e, p, err := Parse(Delivery{Source: "github", Header: h, Body: []byte("{}"), ReceivedAt: 1})
		if err != nil {
			if !errors.Is(err, ErrBadRequest) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("got %v, want one of this package's errors", err)
			}
			if text := err.Error(); text != queue.Printable(text) {
				t.Errorf("an error that is logged: %q", text)
			}
			return
		}
		if got := h[http.CanonicalHeaderKey(HeaderDelivery)]; !slices.Equal(got, []string{e.DeliveryID}) || e.DeliveryID == "" {
			t.Errorf("delivery id %q of %q", e.DeliveryID, got)
		}
		again := http.Header{}
		for key, value := range p.Headers {
			if !slices.ContainsFunc(keptHeaders, func(k string) bool { return http.CanonicalHeaderKey(k) == key }) {
				t.Errorf("kept %s", key)
			}
			if value == "" || value != string(queue.Clean(value)) {
				t.Errorf("kept %s as %q", key, value)
			}
			again.Set(key, value)
		}
		e2, p2, err := Parse(Delivery{Source: "github", Header: again, Body: p.Body, ReceivedAt: 1})
		if err != nil || !cmp.Equal(e, e2) || !cmp.Equal(p, p2) {
			t.Errorf("%q\nread once: %+v, %+v\nread again: %+v, %+v, %v", text, e, p, e2, p2, err)
		}
	})
}

// FuzzForm reads form bodies as this package's own words say it: fields apart by
// &, one of them named payload, each escape two hex digits.
func FuzzForm(f *testing.F) {
	for _, body := range []string{
		"payload=%7B%7D", "payload={}", "payload={}&payload={}", "payload=%zz", "payload=%7", "a=b", "", "payload", "payload=", "p%61yload={}",
		"payload=+{}", "payload={};a=b", "a;b=c&payload={}", "&&payload={}&", "payload={}&%=1", "=&payload=%00{}", "payload=\x00{}", "payload={%22a%22:%22%ff\xff%22}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p := &queue.Payload{Headers: map[string]string{"Content-Type": queue.FormContentType}, Body: body}
		got, err := p.JSON()
		want, ok := formPayload(string(body))
		if (err == nil) != ok || ok && string(got) != want {
			t.Errorf("form %q: got %q, %v, want %q, ok %v", body, got, err, want, ok)
		}
		// And whatever bytes are sent, they arrive.
		p.Body = []byte(url.Values{"payload": {string(body)}, "other": {string(body)}}.Encode())
		if got, err := p.JSON(); err != nil || string(got) != string(body) {
			t.Errorf("%q was sent, got %q, %v", body, got, err)
		}
	})
}

func formPayload(body string) (payload string, ok bool) {
	n := 0
	for _, field := range strings.Split(body, "&") {
		if field == "" {
			continue
		}
		if strings.Contains(field, ";") {
			return "", false
		}
		key, value, _ := strings.Cut(field, "=")
		key, good := unescape(key)
		value, alsoGood := unescape(value)
		if !good || !alsoGood {
			return "", false
		}
		if key == "payload" {
			payload = value
			n++
		}
	}
	return payload, n == 1
}

func unescape(s string) (string, bool) {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for len(s) > 0 {
		switch {
		case s[0] == '+':
			b.WriteByte(' ')
		case s[0] != '%':
			b.WriteByte(s[0])
		case len(s) < 3:
			return "", false
		default:
			low := strings.ToLower(s[1:3])
			high, rest := strings.IndexByte(digits, low[0]), strings.IndexByte(digits, low[1])
			if high < 0 || rest < 0 {
				return "", false
			}
			b.WriteByte(byte(high<<4 | rest))
			s = s[2:]
		}
		s = s[1:]
	}
	return b.String(), true
}
