// Package webhook turns headers and a body into a verified delivery. There is
// one file a provider, each with the same three functions: Sign, Verify and
// Parse. They take values and return values: no request, no clock, no log.
//
// Verify comes before Parse: until the signature is known to be right, a body
// is bytes from a stranger, and nothing here looks into it.
package webhook

import (
	"errors"
	"net/http"

	"orchestrate/internal/queue"
)

// Why a delivery is refused, for errors.Is. What wraps them tells a reason that
// a log may show; it quotes no body, secret or signature.
var (
	ErrSignature   = errors.New("signature refused")
	ErrBadRequest  = errors.New("bad request")
	ErrUnsupported = errors.New("unsupported content")
)

// Delivery is what arrived over HTTP.
type Delivery struct {
	Source     string // whose secrets it was verified with
	Header     http.Header
	Body       []byte // as it was signed
	ReceivedAt queue.Time
}
