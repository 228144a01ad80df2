package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

var (
	errPath       = errors.New("no such path")
	errMethod     = errors.New("method not allowed")
	errBody       = errors.New("body incomplete or malformed")
	errSlow       = errors.New("too slow")
	errTooLarge   = errors.New("too large")
	errOverloaded = errors.New("requests hold all the memory they may")
)

// meanings maps errors to HTTP. What it lacks is no fault of the sender: 503,
// so that the delivery shows as failed and can be sent again.
var meanings = []struct {
	err    error
	status int
	level  slog.Level
}{
	{errPath, http.StatusNotFound, slog.LevelInfo},
	{errMethod, http.StatusMethodNotAllowed, slog.LevelInfo},
	{webhook.ErrSignature, http.StatusUnauthorized, slog.LevelWarn},
	{webhook.ErrBadRequest, http.StatusBadRequest, slog.LevelWarn},
	{webhook.ErrUnsupported, http.StatusUnsupportedMediaType, slog.LevelWarn},
	{errBody, http.StatusBadRequest, slog.LevelWarn},
	{errSlow, http.StatusRequestTimeout, slog.LevelWarn},
	{errTooLarge, http.StatusRequestEntityTooLarge, slog.LevelWarn},
	{errOverloaded, http.StatusServiceUnavailable, slog.LevelWarn},
}

// refuse answers and logs an error. Only what a signature has vouched for is
// logged each time: each line is a delivery that somebody has to send again.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	attrs := []any{
		"remote", r.RemoteAddr, "path", queue.Clean(r.URL.Path), "reason", queue.Clean(err.Error()),
		"delivery_id", queue.Clean(r.Header.Get(webhook.HeaderDelivery)), "event", queue.Clean(r.Header.Get(webhook.HeaderEvent)),
	}
	for _, m := range meanings {
		if errors.Is(err, m.err) {
			s.refusals.add(r.Context(), m.level, m.status, attrs)
			answerError(w, m.status)
			return
		}
	}
	s.log.ErrorContext(r.Context(), "delivery not stored", attrs...)
	answerError(w, http.StatusServiceUnavailable)
}

// allow refuses other methods.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) error {
	for _, m := range methods {
		if r.Method == m {
			return nil
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return fmt.Errorf("%w: %q", errMethod, queue.Clean(r.Method))
}

// retryAfter is what a 503 asks for, in seconds: long enough for a full disk
// queue or a restart.
const retryAfter = "5"

// answerError tells the status' meaning and no more: the cause is for the log.
func answerError(w http.ResponseWriter, status int) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	answer(w, status, map[string]string{"error": strings.ToLower(http.StatusText(status))})
}

func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // receipts and texts can be encoded
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // whoever has hung up gets nothing
}
