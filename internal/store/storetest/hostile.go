package storetest

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"orchestrate/internal/queue"
)

// hostile are texts that would be SQL, a pattern, a format or no text at all, if
// anybody took them for more than a value; and some that only an exact comparison
// tells apart from them.
var hostile = []string{
	`'; DROP TABLE webhook_events; --`, `" OR 1=1`, `' OR '1'='1`, `$1`, `%s`, `%`, `_`, `\`, `\'`, `/* */`, `/*skip locked*/`,
	"\U0010ffff", "a\U0010ffff", "a\U0010ffffb", "\ufffd", "i\xffnvalid", "t\xf0\x9f\x92runcated", "n\x00ul", "l\nine",
	"a-B", "A-b", "é", "É", strings.Repeat("long", 100),
}

// storable are those as the domain makes them, and as they are where a database
// can hold them: it must not rely on what is cleaned away.
func storable() []string {
	var texts []string
	for _, raw := range hostile {
		texts = append(texts, string(queue.Clean(raw)))
		if utf8.ValidString(raw) && !strings.Contains(raw, "\x00") && len(raw) <= queue.MaxText {
			texts = append(texts, raw)
		}
	}
	slices.Sort(texts)
	return slices.DeleteFunc(slices.Compact(texts), func(s string) bool { return s == "" })
}

// hostileEvent is one whose texts are all the same.
func hostileEvent(t *testing.T, f *fixture, s string) *queue.Event {
	t.Helper()
	text, body := queue.Text(s), s+"\x00\xff"
	in := f.delivery(s, body, s)
	e := in.Event
	e.Source, e.EventType = s, s
	e.Action, e.Repository, e.Sender, e.Ref = text, text, text, text
	in.Payload.Headers = map[string]string{"X-A": s, s: "b"}
	r := f.insert(t, in)
	want(t, "receipt", r, queue.Receipt{EventID: r.EventID, DeliveryID: s, Routes: []string{s}})
	got, p, err := f.Load(t.Context(), r.EventID)
	check(t, err)
	want(t, "headers", p.Headers, in.Payload.Headers)
	want(t, "body", string(p.Body), body)
	want(t, "texts", []queue.Text{queue.Text(got.Source), queue.Text(got.DeliveryID), queue.Text(got.EventType), got.Action, got.Repository, got.Sender, got.Ref},
		slices.Repeat([]queue.Text{text}, 7))
	again := f.insert(t, in)
	want(t, "again", again, queue.Receipt{EventID: r.EventID, DeliveryID: s, Duplicate: true, Routes: []string{}})
	return f.event(t, r.EventID)
}

// runHostile has a worker of that name run the job of an event, into an error of
// that text, with that output.
func runHostile(t *testing.T, f *fixture, e *queue.Event) {
	t.Helper()
	route, text := e.DeliveryID, queue.Text(e.DeliveryID)
	w := queue.Worker{
		ID: text, Host: route, Version: route, Routes: []string{route}, StartedAt: f.now, HeartbeatAt: f.now, ConfigHash: text,
		Reloads: queue.Reloads{ReloadError: text},
	}
	check(t, f.Register(t.Context(), w, ""))
	workers, err := f.Workers(t.Context())
	check(t, err)
	want(t, "worker", workers, []queue.Worker{w})
	due, err := f.Due(t.Context(), []string{route})
	check(t, err)
	want(t, "due", due, []queue.Due{{Route: route, Due: f.now}})
	jobs := f.claim(t, text, route, 10)
	if len(jobs) != 1 || jobs[0].EventID != e.ID || jobs[0].WorkerID != text {
		t.Fatalf("claimed %+v, want the job of event %d alone", jobs, e.ID)
	}
	held, err := f.Heartbeat(t.Context(), w)
	check(t, err)
	want(t, "held", held, jobs)
	f.settle(t, jobs[0], queue.Settlement{
		Status: queue.StatusDeadLetter, Ending: queue.EndDeadLetter, ErrorMessage: text, Version: route, ConfigHash: route,
		Result: queue.Result{Output: []byte(route + "\x00\xff")},
	})
	want(t, "job", f.job(t, e.ID, route).ErrorMessage, text)
	want(t, "told", f.event(t, e.ID).ErrorMessage, queue.Clean(route+": "+route))
	attempts, err := f.Attempts(t.Context(), e.ID)
	check(t, err)
	want(t, "attempt", attempts, []queue.Attempt{{
		Claim: jobs[0].Claim, Ending: queue.EndDeadLetter, StartedAt: f.now, FinishedAt: f.now, ErrorMessage: text,
		Output: text + "\x00\xff", Version: text, ConfigHash: text,
	}})
	check(t, f.Unregister(t.Context(), text, f.now))
}

// textFilters tell how each text of a filter is compared.
var textFilters = []struct {
	name    string
	filter  func(text string) queue.Filter
	matches func(stored, text string) bool
}{
	{"event type", func(s string) queue.Filter { return queue.Filter{EventType: s} }, same},
	{"action", func(s string) queue.Filter { return queue.Filter{Action: s} }, same},
	{"repository", func(s string) queue.Filter { return queue.Filter{Repository: s} }, sameInASCII},
	{"sender", func(s string) queue.Filter { return queue.Filter{Sender: s} }, sameInASCII},
	{"route", func(s string) queue.Filter { return queue.Filter{Route: s} }, same},
	{"delivery", func(s string) queue.Filter { return queue.Filter{Delivery: s} }, strings.HasPrefix},
	{"source", func(s string) queue.Filter { return queue.Filter{Source: s} }, same},
}

func same(stored, text string) bool { return stored == text }

// sameInASCII leaves other letters as they are: what they fold to is a matter of
// a database's locale.
func sameInASCII(stored, text string) bool {
	return stored == text || isASCII(text) && isASCII(stored) && strings.EqualFold(stored, text)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// resistsHostileTexts: each text is stored as it is given, and chooses its own
// event and no other, whichever it is compared with.
func resistsHostileTexts(t *testing.T, f *fixture) {
	stored := map[int64]string{}
	for _, text := range storable() {
		e := hostileEvent(t, f, text)
		stored[e.ID] = text
		runHostile(t, f, e)
	}
	asked := slices.Concat(storable(), hostile, []string{"\xff", "\x00", "none", strings.Repeat("\U0010ffff", 64)})
	slices.Sort(asked)
	for _, text := range slices.Compact(asked) {
		for _, c := range textFilters {
			var expected []int64
			for _, id := range slices.Sorted(maps.Keys(stored)) {
				if c.matches(stored[id], text) {
					expected = append(expected, id)
				}
			}
			f.wantChosen(t, c.name, text, c.filter(text), expected)
		}
		found, err := f.FindDelivery(t.Context(), text)
		check(t, err)
		all := f.chosen(t, queue.Filter{Delivery: text})
		if len(found) != min(len(all), 2) && stored[found[0]] != text {
			t.Errorf("delivery %q: found %v of %v", text, found, all)
		}
	}
}

// wantChosen asks for the events, and for their jobs where that is another query.
func (f *fixture) wantChosen(t *testing.T, what, text string, filter queue.Filter, expected []int64) {
	t.Helper()
	if got := f.chosen(t, filter); !slices.Equal(got, expected) {
		t.Errorf("%s %q: got events %v, want %v", what, text, got, expected)
	}
	if filter.Route == "" {
		return
	}
	jobs, err := f.Select(t.Context(), filter, queue.Statuses(), queue.JobKey{}, 1000)
	check(t, err)
	var got []int64
	for _, j := range jobs {
		got = append(got, j.EventID)
	}
	if !slices.Equal(got, expected) {
		t.Errorf("%s %q: got jobs of events %v, want %v", what, text, got, expected)
	}
}

func (f *fixture) chosen(t *testing.T, filter queue.Filter) (ids []int64) {
	t.Helper()
	events, err := f.List(t.Context(), filter, 1000)
	check(t, err)
	for _, e := range slices.Backward(events) {
		ids = append(ids, e.ID)
	}
	return ids
}
