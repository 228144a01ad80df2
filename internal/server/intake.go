package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"

	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

func (s *Server) intake(w http.ResponseWriter, r *http.Request) {
	// Until the body has been read to its end, the connection can't be used
	// again; net/http would wait for the rest before it sends the answer.
	w.Header().Set("Connection", "close")
	receipt, err := s.deliver(w, r)
	switch {
	case err != nil:
		s.refuse(w, r, err)
	case receipt.Conflict:
		answerError(w, http.StatusConflict) // the receiver has logged it
	default:
		if receipt.Routes == nil {
			receipt.Routes = []string{}
		}
		answer(w, http.StatusOK, receipt)
	}
}

// deliver takes a delivery in. The client that hangs up does not end it: what
// was sent and verified is kept.
func (s *Server) deliver(w http.ResponseWriter, r *http.Request) (queue.Receipt, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), s.limits.Answer)
	defer cancel()
	receivedAt := s.receiver.Now()
	if _, known := s.source(r); !known {
		return queue.Receipt{}, fmt.Errorf("%w: %q", errPath, queue.Clean(r.URL.Path))
	}
	if err := allow(w, r, http.MethodPost); err != nil {
		return queue.Receipt{}, err
	}
	held := s.memory.hold()
	defer held.release()
	body, err := s.read(w, r, held)
	if err != nil {
		return queue.Receipt{}, err
	}
	// Asked again: while a slow body came, its secret may have been taken away.
	src, known := s.source(r)
	if !known {
		return queue.Receipt{}, fmt.Errorf("%w: %q", errPath, queue.Clean(r.URL.Path))
	}
	if !src.Insecure {
		if err := webhook.Verify(strings.Join(r.Header.Values(webhook.HeaderSignature), ", "), body, src.Secrets); err != nil {
			return queue.Receipt{}, err
		}
	}
	e, p, err := webhook.Parse(webhook.Delivery{Source: src.Name, Header: r.Header, Body: body, ReceivedAt: receivedAt})
	if err != nil {
		return queue.Receipt{}, err
	}
	return s.store(ctx, e, p)
}

func (s *Server) source(r *http.Request) (src Source, known bool) {
	src, known = (*s.sources.Load())[r.URL.Path]
	return src, known
}

// store waits for a place, as far as the answer's deadline allows: a burst is
// better late than refused.
func (s *Server) store(ctx context.Context, e *queue.Event, p *queue.Payload) (queue.Receipt, error) {
	select {
	case s.stores <- struct{}{}:
		defer func() { <-s.stores }()
	case <-ctx.Done():
		return queue.Receipt{}, fmt.Errorf("%d deliveries are being stored, and none has ended for %s", cap(s.stores), s.limits.Answer)
	}
	return s.receiver.Receive(ctx, e, p)
}

// read reads the body within its limits of size, time and memory.
func (s *Server) read(w http.ResponseWriter, r *http.Request, held *holding) ([]byte, error) {
	if r.ContentLength > s.limits.Size {
		return nil, fmt.Errorf("%w: %d bytes announced, %d are the most", errTooLarge, r.ContentLength, s.limits.Size)
	}
	if err := http.NewResponseController(w).SetReadDeadline(queue.Clock().Add(s.limits.Body)); err != nil {
		return nil, fmt.Errorf("%w: bound its time: %w", errBody, err)
	}
	body, err := readAll(http.MaxBytesReader(w, r.Body, s.limits.Size), r.ContentLength, held)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		came(r.Context())
		// Who sent chunks may also have sent a length, which net/http takes away:
		// what follows could then be read in two ways (RFC 9112, 6.1).
		if len(r.TransferEncoding) == 0 {
			w.Header().Del("Connection")
		}
		return body, nil
	case errors.As(err, &tooLarge):
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("%w: the body was not complete after %s", errSlow, s.limits.Body)
	case errors.Is(err, errOverloaded):
		return nil, err
	default:
		return nil, fmt.Errorf("%w: %w", errBody, err)
	}
}

const (
	// requestCost is what a request takes beside its body: the buffers of its
	// connection and the stack. It bounds the requests that are open.
	requestCost = 16 << 10
	// firstRead is what a body gets before any of it has arrived; most
	// deliveries fit.
	firstRead = 32 << 10
)

// readAll reads into a buffer that is made for the announced size (-1: none),
// but grows no faster than what arrives: it doubles.
func readAll(r io.Reader, announced int64, held *holding) ([]byte, error) {
	if !held.take(requestCost) {
		return nil, errOverloaded
	}
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			size := max(2*cap(buf), firstRead)
			if int64(cap(buf)) < announced {
				size = int(min(int64(size), announced))
			}
			if !held.take(int64(size - cap(buf))) {
				return nil, errOverloaded
			}
			buf = append(make([]byte, 0, size), buf...)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// memory is what all requests together may hold.
type memory struct{ free atomic.Int64 } // in bytes

// holding is the part of it that one request has.
type holding struct {
	of    *memory
	bytes int64
}

func (m *memory) hold() *holding { return &holding{of: m} }

func (h *holding) take(n int64) bool {
	if h.of.free.Add(-n) < 0 {
		h.of.free.Add(n)
		return false
	}
	h.bytes += n
	return true
}

func (h *holding) release() { h.of.free.Add(h.bytes) }
