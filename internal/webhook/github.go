package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"orchestrate/internal/queue"
)

// The headers that GitHub sends (docs.github.com, "Webhook events and
// payloads", "Delivery headers").
const (
	HeaderEvent     = "X-GitHub-Event"
	HeaderDelivery  = "X-GitHub-Delivery"
	HeaderHookID    = "X-GitHub-Hook-ID"
	HeaderSignature = "X-Hub-Signature-256"
)

// keptHeaders are stored with the payload. It is an allow-list, so that no
// credential of a proxy's, no cookie and no signature is ever among them.
var keptHeaders = []string{
	"Content-Type", "User-Agent", HeaderEvent, HeaderDelivery, HeaderHookID,
	"X-GitHub-Hook-Installation-Target-ID", "X-GitHub-Hook-Installation-Target-Type",
	"X-GitHub-Enterprise-Host", "X-GitHub-Enterprise-Version",
}

const signaturePrefix = "sha256="

// Sign returns the value of HeaderSignature for a body.
func Sign(body, secret []byte) string {
	return signaturePrefix + hex.EncodeToString(sum(body, secret))
}

func sum(body, secret []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return mac.Sum(nil)
}

// Verify tells whether one of the secrets signed the body: nil, or
// ErrSignature. Every secret is tried, whichever fits, so that the time taken
// tells nothing. An empty secret fits nothing: anybody could sign with it.
func Verify(signature string, body []byte, secrets [][]byte) error {
	if signature == "" {
		return fmt.Errorf("%w: header %s is missing", ErrSignature, HeaderSignature)
	}
	digits, ok := strings.CutPrefix(signature, signaturePrefix)
	given, err := hex.DecodeString(digits)
	if !ok || err != nil || len(given) != sha256.Size {
		return fmt.Errorf("%w: header %s is not %s and %d hex digits", ErrSignature, HeaderSignature, signaturePrefix, 2*sha256.Size)
	}
	fits := false
	for _, secret := range secrets {
		if hmac.Equal(given, sum(body, secret)) && len(secret) > 0 {
			fits = true
		}
	}
	if !fits {
		return fmt.Errorf("%w: it was made with another secret, or for another body", ErrSignature)
	}
	return nil
}

// Parse reads a verified delivery. The payload's body is the delivery's, not a
// copy. ErrBadRequest when a header that names it is missing or malformed, or
// the body is not a JSON object; ErrUnsupported for other content types and for
// encoded content. A type of event never seen before is as good as any.
func Parse(d Delivery) (*queue.Event, *queue.Payload, error) {
	eventType, err := nameIn(d.Header, HeaderEvent)
	if err != nil {
		return nil, nil, err
	}
	id, err := nameIn(d.Header, HeaderDelivery)
	if err != nil {
		return nil, nil, err
	}
	p := &queue.Payload{Headers: keep(d.Header), Body: d.Body}
	doc, err := document(d.Header, p)
	if err != nil {
		return nil, nil, err
	}
	digest := sha256.Sum256(d.Body)
	e := &queue.Event{
		Source: d.Source, DeliveryID: id, EventType: eventType, HookID: hookID(d.Header),
		ReceivedAt: d.ReceivedAt, BodySize: int64(len(d.Body)), BodySHA256: hex.EncodeToString(digest[:]),
	}
	summarise(e, doc)
	return e, p, nil
}

// nameIn reads a header that names something. It is refused, not cleaned: two
// names must not become one.
func nameIn(h http.Header, key string) (string, error) {
	values := h.Values(key)
	switch {
	case len(values) == 0 || values[0] == "":
		return "", fmt.Errorf("%w: header %s is missing", ErrBadRequest, key)
	case len(values) > 1:
		return "", fmt.Errorf("%w: header %s was sent %d times", ErrBadRequest, key, len(values))
	case len(values[0]) > queue.MaxText:
		return "", fmt.Errorf("%w: header %s has %d bytes, more than %d", ErrBadRequest, key, len(values[0]), queue.MaxText)
	case values[0] != queue.Printable(values[0]):
		return "", fmt.Errorf("%w: header %s holds control characters", ErrBadRequest, key)
	}
	return values[0], nil
}

func hookID(h http.Header) queue.Int {
	id, err := strconv.ParseInt(h.Get(HeaderHookID), 10, 64)
	if err != nil || id < 0 {
		return 0
	}
	return queue.Int(id)
}

func keep(h http.Header) map[string]string {
	kept := make(map[string]string, len(keptHeaders))
	for _, key := range keptHeaders {
		if v := queue.Clean(h.Get(key)); v != "" {
			kept[http.CanonicalHeaderKey(key)] = string(v)
		}
	}
	return kept
}

// maxDepth leaves room below the 10,000 levels of encoding/json, for what is put
// around a payload when it is shown: else nobody could read that.
const maxDepth = 9990

// document is the body as a JSON object. The content type that decides is the
// kept one, so that whoever reads the payload later takes it for the same.
func document(h http.Header, p *queue.Payload) ([]byte, error) {
	for _, v := range h.Values("Content-Encoding") {
		if v != "" && !strings.EqualFold(v, "identity") {
			return nil, fmt.Errorf("%w: content encoding %q", ErrUnsupported, queue.Clean(v))
		}
	}
	if t := p.ContentType(); t != "application/json" && t != queue.FormContentType {
		return nil, fmt.Errorf("%w: content type %q", ErrUnsupported, p.Headers["Content-Type"])
	}
	doc, err := p.JSON()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	// encoding/json bounds the depth it follows; gjson's validity check, three
	// times as fast, recurses until the stack is gone.
	if !json.Valid(doc) || bytes.TrimLeft(doc, " \t\r\n")[0] != '{' {
		return nil, fmt.Errorf("%w: the body is not a JSON object", ErrBadRequest)
	}
	if bytes.Count(doc, []byte("["))+bytes.Count(doc, []byte("{")) > maxDepth {
		if _, depth := queue.Shape(doc); depth > maxDepth {
			return nil, fmt.Errorf("%w: the body is nested %d levels deep, more than %d", ErrBadRequest, depth, maxDepth)
		}
	}
	return doc, nil
}
