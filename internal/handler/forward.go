package handler

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"orchestrate/internal/queue"
)

// DefaultForwardTimeout bounds an attempt where a route sets nothing else.
const DefaultForwardTimeout = 30 * time.Second

// Forward is an HTTP request that is made for an event: its payload, as it was
// received.
type Forward struct {
	URL          string                   // http or https
	URLFrom      string                   // where it comes from, if it is a secret ("file:/etc/orchestrate/hook-url"); without URL nothing can be sent
	Secret       []byte                   // signs the body anew, as GitHub does; nil: unsigned
	SecretFrom   string                   // where it comes from ("env:MIRROR_SECRET"); without Secret nothing can be sent
	Headers      map[string]ForwardHeader // further ones, by name
	Timeout      time.Duration            // of a whole attempt; 0: DefaultForwardTimeout
	AllowPrivate []string                 // CIDRs of addresses that are not public and may be dialled
}

// ForwardHeader is the value of a header, and where it comes from if it is a
// secret. With From, but without Value, nothing can be sent.
type ForwardHeader struct{ Value, From string }

type forward struct {
	url        *url.URL // nil: it was not read
	urlFrom    string
	secret     []byte
	secretFrom string
	headers    map[string]ForwardHeader
	timeout    time.Duration
	redact     *strings.Replacer // of secrets, in what the receiver says
	longest    int               // of those secrets, in bytes
	dialer     *dialer
	transport  *http.Transport // of this route alone: its connections have passed its check
	log        *slog.Logger
}

// NewForward checks a request. Its errors are *queue.FieldError, joined.
func NewForward(f Forward, log *slog.Logger) (Handler, error) {
	allow, errAllow := parseAllowed(f.AllowPrivate)
	target, errURL := (*url.URL)(nil), error(nil)
	if f.URL != "" || f.URLFrom == "" {
		target, errURL = parseTarget(f.URL, allow)
	}
	if errURL != nil && f.URLFrom != "" {
		errURL = fmt.Errorf("what %s holds can't be posted to: want a URL as https://mirror.example/hook (it is not shown)", f.URLFrom)
	}
	headers, errHeaders := parseHeaders(f.Headers)
	if err := errors.Join(field("url", errURL), field("secret", checkSecret(f.Secret)), errHeaders,
		field("timeout", checkTimeout(f.Timeout)), errAllow); err != nil {
		return nil, err
	}
	h := &forward{
		url: target, urlFrom: f.URLFrom, secret: f.Secret, secretFrom: f.SecretFrom, headers: headers, timeout: f.Timeout,
		dialer: &dialer{Dialer: net.Dialer{Timeout: connectTimeout}, check: allow.check}, log: log,
	}
	if h.timeout == 0 {
		h.timeout = DefaultForwardTimeout
	}
	h.redact = h.redactor()
	h.transport = transport(h.dialer)
	return h, nil
}

// CloseIdleConnections closes what is kept for further attempts.
func (h *forward) CloseIdleConnections() { h.transport.CloseIdleConnections() }

// transport bounds what a receiver can make of a connection. It has no proxy: a
// proxy would resolve the name, and the check would see the proxy's address.
func transport(d *dialer) *http.Transport {
	return &http.Transport{
		DialContext:            d.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true, // a DialContext turns it off
		DisableCompression:     true, // no small answer becomes a big one
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        time.Minute,
		HTTP2: &http.HTTP2Config{
			// Without pings a connection that a firewall forgot would take every
			// attempt for minutes.
			SendPingTimeout:               15 * time.Second,
			PingTimeout:                   5 * time.Second,
			MaxReceiveBufferPerStream:     2 * queue.MaxOutput, // 4 MiB by default
			MaxReceiveBufferPerConnection: 1 << 20,             // 1 GiB by default
		},
	}
}

func field(name string, err error) error {
	if err == nil {
		return nil
	}
	return &queue.FieldError{Field: "forward." + name, Err: err}
}

func checkSecret(secret []byte) error {
	if secret != nil && len(secret) == 0 {
		return errors.New("empty: anybody could sign with it; set it, or leave the key out to send unsigned")
	}
	return nil
}

func checkTimeout(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s: want more than 0", d)
	}
	return nil
}

// parseTarget reads the URL. Its errors don't quote the query, which may hold a
// secret.
func parseTarget(s string, allow allowed) (*url.URL, error) {
	u, err := url.Parse(s)
	var parse *url.Error
	switch {
	case errors.As(err, &parse):
		return nil, fmt.Errorf("%w; want one as in https://mirror.example/hook", parse.Err) // the whole would print the URL
	case err != nil:
		return nil, err
	case strings.Contains(s, "{{"):
		return nil, errors.New("a template, which is not filled in here, or a sender could choose the receiver; write the URL in full")
	case u.Scheme == "":
		return nil, errors.New("no scheme: want http or https, as in https://mirror.example/hook")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("scheme %q: want http or https, as in https://mirror.example/hook", u.Scheme)
	case u.User != nil:
		return nil, errors.New("a user or password: want them as a header, as in headers: {Authorization: \"env:MIRROR_AUTHORIZATION\"}")
	case u.Hostname() == "":
		return nil, errors.New("no host: want one, as in https://mirror.example/hook")
	case strings.Contains(s, "#"):
		return nil, errors.New("a fragment (#…), which is never sent: remove it")
	}
	if strings.ContainsFunc(u.RawQuery, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("a query with blanks or characters beyond ASCII: want them as %20 and the like")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("port %s: want 1 to 65535", port)
		}
	}
	return u, checkHost(u.Hostname(), allow)
}

// checkHost refuses what can be told without asking anybody; the dialer does
// the rest.
func checkHost(host string, allow allowed) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return fmt.Errorf("host %s: an address with a zone, which means something on one machine only", host)
		}
		return allow.check(addr)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	last := name[strings.LastIndexByte(name, '.')+1:]
	hex, isHex := strings.CutPrefix(last, "0x")
	switch {
	case strings.Contains("."+name+".", ".."):
		return fmt.Errorf("host %s: an empty part between dots", host)
	case strings.Trim(last, "0123456789") == "", isHex && strings.Trim(hex, "0123456789abcdef") == "":
		return fmt.Errorf("host %s: programs read such a number as different addresses; want a name, or an address as four decimal numbers", host)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "":
		return fmt.Errorf("host %q: want letters, digits, hyphens and dots; a name in another script in its xn-- form", host)
	case last == "localhost" && allow.check(netip.IPv6Loopback()) != nil:
		return allow.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return nil
}

// passedHeaders are those of a delivery that are sent on, as GitHub spells them.
// What a delivery did not have is not made up.
var passedHeaders = []string{
	"Content-Type", "X-GitHub-Event", "X-GitHub-Delivery", "X-GitHub-Hook-ID",
	"X-GitHub-Hook-Installation-Target-ID", "X-GitHub-Hook-Installation-Target-Type",
	"X-GitHub-Enterprise-Host", "X-GitHub-Enterprise-Version",
}

const (
	headerSignature = "X-Hub-Signature-256"
	headerKey       = "Idempotency-Key"
	headerAttempt   = "Orchestrate-Attempt"
)

// ownHeaders can't be configured: they are set by this program or belong to the
// connection. A dash at the end stands for all that begin so.
var ownHeaders = []string{
	"content-type", "content-length", "content-encoding", "x-hub-signature", "x-hub-signature-256", "idempotency-key",
	"x-github-", "orchestrate-", "host", "accept-encoding", "connection", "keep-alive", "transfer-encoding", "te", "trailer",
	"upgrade", "http2-settings", "expect", "proxy-",
}

// parseHeaders returns the headers by their canonical names. Its errors quote no
// value, which may be a secret.
func parseHeaders(headers map[string]ForwardHeader) (map[string]ForwardHeader, error) {
	all := make(map[string]ForwardHeader, len(headers))
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		canonical := http.CanonicalHeaderKey(name)
		err := checkHeader(name, headers[name].Value)
		if _, twice := all[canonical]; twice && err == nil {
			err = errors.New("stands there twice: upper and lower case are the same; leave one")
		}
		errs = append(errs, field("headers."+key(name), err))
		all[canonical] = headers[name]
	}
	return all, errors.Join(errs...)
}

// key is a name as the configuration quotes it, where it is no plain word.
func key(name string) string {
	if plain := strings.Trim(name, wordChars) == ""; plain && name != "" {
		return name
	}
	return strconv.Quote(name)
}

const wordChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"

func checkHeader(name, value string) error {
	lower := strings.ToLower(name)
	switch {
	case strings.Trim(lower, "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") != "" || name == "":
		return errors.New("no name of a header: want letters, digits and hyphens")
	case slices.ContainsFunc(ownHeaders, func(own string) bool {
		return lower == own || strings.HasSuffix(own, "-") && strings.HasPrefix(lower, own)
	}):
		return errors.New("set by this program; remove it")
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return errors.New("its value holds a line break or another control character, which no header can")
	}
	return nil
}

// Handle implements queue.Handler: one request, and what its answer means.
func (h *forward) Handle(ctx context.Context, t *queue.Task) (queue.Result, error) {
	if ctx.Err() != nil {
		return queue.Result{}, context.Cause(ctx)
	}
	if err := h.checkSecrets(); err != nil {
		return queue.Result{}, err
	}
	attempt, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	var connected atomic.Bool
	req, err := h.request(httptrace.WithClientTrace(attempt, &httptrace.ClientTrace{
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				connected.Store(true)
			}
		},
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}), t)
	if err != nil {
		return queue.Result{}, queue.Permanent("request: %w", err)
	}
	// Without a client around it, a transport follows no redirects and keeps no
	// cookies. As there is an idempotency key, it sends again by itself when a
	// kept connection turns out to be closed.
	resp, err := h.transport.RoundTrip(req)
	if err != nil {
		return queue.Result{}, h.noAnswer(ctx, attempt, err, connected.Load())
	}
	defer func() { _ = resp.Body.Close() }() // what is left of it is not wanted
	out, err := h.read(resp)
	if err != nil {
		h.log.WarnContext(ctx, "answer broke off", "event_id", t.Event.ID, "route", t.Route,
			"attempt", t.Attempt, "http_status", resp.StatusCode, "error", err.Error())
	}
	return queue.Result{HTTPStatus: queue.Int(resp.StatusCode), Output: out}, h.verdict(ctx, resp, out)
}

// checkSecrets holds back what was made to be looked at only.
func (h *forward) checkSecrets() error {
	if h.url == nil {
		return fmt.Errorf("the url was not read from %s", h.urlFrom)
	}
	if h.secret == nil && h.secretFrom != "" {
		return fmt.Errorf("the secret was not read from %s", h.secretFrom)
	}
	for name, v := range h.headers {
		if v.Value == "" && v.From != "" {
			return fmt.Errorf("header %s was not read from %s", name, v.From)
		}
	}
	return nil
}

func (h *forward) request(ctx context.Context, t *queue.Task) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url.String(), bytes.NewReader(t.Payload.Body))
	if err != nil {
		return nil, err
	}
	for name, v := range h.headersFor(t) {
		req.Header[name] = []string{v.Value}
	}
	if h.secret != nil {
		mac := hmac.New(sha256.New, h.secret)
		mac.Write(t.Payload.Body)
		req.Header[headerSignature] = []string{"sha256=" + hex.EncodeToString(mac.Sum(nil))}
	}
	return req, nil
}

// headersFor are all headers but the signature. What came with the event is made
// printable, as at its receipt, whatever became of it since.
func (h *forward) headersFor(t *queue.Task) map[string]ForwardHeader {
	all := map[string]ForwardHeader{"User-Agent": {Value: "orchestrate"}}
	maps.Copy(all, h.headers)
	for _, name := range passedHeaders {
		if v := queue.Printable(t.Payload.Headers[http.CanonicalHeaderKey(name)]); v != "" {
			all[name] = ForwardHeader{Value: v}
		}
	}
	all[headerKey] = ForwardHeader{Value: queue.Printable(t.Key)}
	all[headerAttempt] = ForwardHeader{Value: strconv.FormatInt(t.Attempt, 10)}
	return all
}

// Preview implements Handler.
func (h *forward) Preview(t *queue.Task) (Preview, error) {
	p := &ForwardPreview{Method: http.MethodPost, URL: h.urlFrom, Headers: map[string]string{}, BodyBytes: len(t.Payload.Body)}
	if h.urlFrom == "" {
		p.URL = maskQuery(*h.url)
	}
	for name, v := range h.headersFor(t) {
		p.Headers[name] = v.Value
		if v.From != "" {
			p.Headers[name] = v.From
		}
	}
	switch {
	case h.secretFrom != "":
		p.Headers[headerSignature] = "sha256=… with " + h.secretFrom
	case h.secret != nil:
		p.Headers[headerSignature] = "sha256=…"
	}
	return Preview{Forward: p}, nil
}

const masked = "***"

// maskQuery is a URL without the values of its query, which may be secrets.
func maskQuery(u url.URL) string {
	if u.RawQuery == "" {
		return u.String()
	}
	pairs := strings.Split(u.RawQuery, "&")
	for i, pair := range pairs {
		name, _, ok := strings.Cut(pair, "=")
		pairs[i] = masked
		if ok {
			pairs[i] = name + "=" + masked
		}
	}
	u.RawQuery = strings.Join(pairs, "&")
	return u.String()
}

// redactor masks secrets that a receiver repeats: pages that help developers
// show whole requests, and answers are stored. What is shorter than minSecret
// stays, or ordinary words would be lost.
func (h *forward) redactor() *strings.Replacer {
	const minSecret = 8
	secrets := []string{string(h.secret)}
	for _, v := range h.headers {
		if v.From != "" {
			secrets = append(secrets, strings.Fields(v.Value)...) // "Bearer" is none
		}
	}
	if h.url == nil {
		return strings.NewReplacer()
	}
	if h.urlFrom != "" {
		secrets = append(secrets, strings.Split(h.url.Path, "/")...)
		secrets = append(secrets, strings.Split(h.url.EscapedPath(), "/")...)
	}
	for pair := range strings.SplitSeq(h.url.RawQuery, "&") {
		_, value, ok := strings.Cut(pair, "=")
		if !ok {
			value = pair
		}
		secrets = append(secrets, value)
		if decoded, err := url.QueryUnescape(value); err == nil {
			secrets = append(secrets, decoded)
		}
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) }) // one may begin with another
	var pairs []string
	for _, s := range secrets {
		if len(s) >= minSecret {
			h.longest = max(h.longest, len(s))
			pairs = append(pairs, s, masked)
		}
	}
	return strings.NewReplacer(pairs...)
}

// read keeps the beginning of the answer's body, at most queue.MaxOutput bytes;
// a line at the end says that there was more. A body up to that is read to its
// end, so that its connection can be used again. The error is that of a body
// that broke off.
func (h *forward) read(resp *http.Response) ([]byte, error) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil // its body is the connection, which no context ends
	}
	// A secret that stands across the end is to be known as one, too.
	out, err := io.ReadAll(io.LimitReader(resp.Body, int64(queue.MaxOutput+1+h.longest)))
	cut := err != nil || len(out) > queue.MaxOutput
	if len(out) > 0 {
		out = []byte(h.redact.Replace(string(out)))
	}
	if cut || len(out) > queue.MaxOutput {
		const mark = "\n[the rest was not read]\n"
		out = append(out[:min(len(out), queue.MaxOutput-len(mark))], mark...)
	}
	return out, err
}

// verdict is the outcome of an answer. Whoever answered 2xx has the event, even
// if the rest of the answer is late or our own end came meanwhile.
func (h *forward) verdict(ctx context.Context, resp *http.Response, out []byte) error {
	code := resp.StatusCode
	if code >= 200 && code <= 299 {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := because(fmt.Errorf("%d from %s", code, h.url.Host), firstWords(out))
	switch {
	case code == http.StatusGone:
		return &queue.PermanentError{Err: err}
	case code == http.StatusTooManyRequests, code >= 502 && code <= 504:
		return &queue.UnavailableError{Err: err, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), queue.Clock())}
	case code >= 300 && code <= 399 && resp.Header.Get("Location") != "":
		return fmt.Errorf("%d from %s: redirects are not followed; it leads to %s", code, h.url.Host, h.location(resp))
	}
	return err
}

// location is where a redirect leads, without its query.
func (h *forward) location(resp *http.Response) string {
	text, _, _ := strings.Cut(resp.Header.Get("Location"), "?")
	if u, err := h.url.Parse(text); err == nil {
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		text = u.String()
	}
	return queue.Cut(queue.Printable(h.redact.Replace(text)), maxLine/2)
}

// firstWords is how an answer begins: where servers say what is wrong.
func firstWords(out []byte) string {
	begin := queue.Printable(string(out[:min(len(out), 4*maxLine)]))
	return queue.Cut(strings.Join(strings.Fields(begin), " "), maxLine)
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110,
// 10.2.3). What is in the past or can't be read asks for nothing.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// noAnswer is the outcome of a request that got none. What ended before there
// was a connection sent nothing: the receiver, or the way there, is away.
func (h *forward) noAnswer(ctx, attempt context.Context, err error, connected bool) error {
	var refused *refusedError
	var dns *net.DNSError
	var op *net.OpError
	away := false
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &refused):
		return queue.Permanent("%s: %w", h.url.Host, refused)
	case attempt.Err() != nil:
		err, away = fmt.Errorf("timed out after %s", h.timeout), !connected
	case errors.As(err, &dns):
		away = !dns.IsNotFound
	case errors.As(err, &op):
		away = op.Op == "dial"
	}
	// What a receiver sends instead of HTTP is quoted by net/http.
	err = errors.New(h.redact.Replace(fmt.Sprintf("no answer from %s: %s", h.url.Host, err)))
	if away {
		return &queue.UnavailableError{Err: err}
	}
	return err
}
