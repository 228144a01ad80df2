package server

import (
	"cmp"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"orchestrate/internal/queue"
)

func (s *Server) admin(w http.ResponseWriter, r *http.Request) {
	if !isOurs(r.Host, s.adminAs) {
		answerError(w, http.StatusMisdirectedRequest)
		return
	}
	if r.URL.Path != "/livez" && r.URL.Path != "/readyz" {
		answerError(w, http.StatusNotFound)
		return
	}
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		answerError(w, http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Path == "/readyz" && !s.ready.check() {
		answerError(w, http.StatusServiceUnavailable)
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

// isOurs tells whether a request's Host is an address, this machine's own name
// for itself, or the name that was configured. A page of the web whose name has
// been made to lead here names another, and its scripts read nothing.
func isOurs(host, configured string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || strings.EqualFold(host, configured)
}

// readiness asks, and logs when the answer changes: probes come every few
// seconds.
type readiness struct {
	ask func() error
	log *slog.Logger

	mu  sync.Mutex
	why queue.Text // the last answer; empty: ready
}

func (r *readiness) check() bool {
	var why queue.Text
	if err := r.ask(); err != nil {
		why = cmp.Or(queue.Clean(err.Error()), "unknown")
	}
	r.mu.Lock()
	changed := why != r.why
	r.why = why
	r.mu.Unlock()
	switch {
	case changed && why != "":
		r.log.Warn("not ready", "reason", why)
	case changed:
		r.log.Info("ready again")
	}
	return why == ""
}
