package server

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"
	"orchestrate/internal/webhook"
)

// everything is a matcher by which the route named all wants every event.
type everything struct{}

func (everything) Match(*queue.Event, *queue.Payload) []queue.Match {
	return []queue.Match{{Route: "all"}}
}

func (everything) Wants(string, *queue.Event, *queue.Payload) (bool, error) { return true, nil }

// From the request to the disk and back.
func TestIntakeOverSQLite(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(t.Context(), store.Options{Database: filepath.Join(t.TempDir(), "test.db"), Create: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	q := queue.New(db, &queue.Config{Routes: []queue.Route{{Name: "all"}}, Matcher: everything{}}, log)
	addr := listen(t, newServer(t, q, io.Discard, Limits{}).ServeIntake)
	c := client(t)
	for i, eventType := range webhook.Examples() {
		body, err := webhook.Example(eventType)
		if err != nil {
			t.Fatal(err)
		}
		guid := fmt.Sprintf("guid-%d", i)
		send := func(body []byte, edit ...string) (reply, string) {
			return do(t, c, delivery(t, addr, string(body), append([]string{
				webhook.HeaderEvent, eventType, webhook.HeaderDelivery, guid, webhook.HeaderHookID, "7",
			}, edit...)...))
		}
		resp, answer := send(body, webhook.HeaderSignature, webhook.Sign(body, []byte("guess")))
		wantError(t, resp, answer, 401)

		resp, answer = send(body)
		id, err := q.Resolve(t.Context(), guid)
		if err != nil {
			t.Fatalf("answered %d %q, but %v", resp.status, answer, err)
		}
		if want := fmt.Sprintf(`{"event_id":%d,"delivery_id":%q,"duplicate":false,"routes":["all"]}`, id, guid); resp.status != 200 || strings.TrimSpace(answer) != want {
			t.Errorf("%s: got %d %s, want 200 %s", eventType, resp.status, answer, want)
		}
		resp, answer = send(body)
		if want := fmt.Sprintf(`{"event_id":%d,"delivery_id":%q,"duplicate":true,"routes":[]}`, id, guid); resp.status != 200 || strings.TrimSpace(answer) != want {
			t.Errorf("%s again: got %d %s, want 200 %s", eventType, resp.status, answer, want)
		}
		resp, answer = send([]byte("{}"))
		wantError(t, resp, answer, 409)

		e, p, err := db.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Body, body) || e.EventType != eventType || e.DuplicateCount != 1 || e.ConflictCount != 1 || !strings.HasPrefix(string(e.Repository), "acme/") {
			t.Errorf("%s: stored %+v with %d bytes of %d", eventType, e, len(p.Body), len(body))
		}
	}
}
