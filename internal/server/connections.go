package server

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

// connections bounds those that are open. Each holds buffers and a descriptor
// before anything is known of who sits behind it, and the store needs
// descriptors, too. Beyond the bound the one goes that has waited longest for
// its sender: whoever sends is never that one, so those who drip headers shut
// out each other. Rejected: taking no more, which leaves the places to them.
type connections struct {
	max     int
	dropped func(net.Conn) // told of each that goes

	mu      sync.Mutex
	open    sync.WaitGroup // net/http waits for requests, but not for the goroutines behind them
	n       int
	waiting list.List // of net.Conn, for whose request or its body we wait; the longest first
	place   map[net.Conn]*list.Element
}

type cameKey struct{}

// context gives a request what came calls.
func (s *connections) context(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, cameKey{}, func() { s.leave(c, 0) })
}

// came tells that a request has come in full: it is our turn now.
func came(ctx context.Context) {
	if leave, ok := ctx.Value(cameKey{}).(func()); ok {
		leave()
	}
}

func (s *connections) changed(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.open.Add(1)
		s.wait(c, 1)
	case http.StateIdle:
		s.wait(c, 0)
	case http.StateClosed:
		s.leave(c, -1)
		s.open.Done()
	case http.StateActive, http.StateHijacked: // the header was read, not the body; nothing is hijacked
	}
}

// wait puts c last, and closes the first if there are too many.
func (s *connections) wait(c net.Conn, added int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += added
	s.forget(c)
	s.place[c] = s.waiting.PushBack(c)
	if s.n <= s.max {
		return
	}
	if first, ok := s.waiting.Front().Value.(net.Conn); ok {
		s.forget(first) // it counts until it is closed, which is soon
		_ = first.Close()
		s.dropped(first)
	}
}

func (s *connections) leave(c net.Conn, added int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += added
	s.forget(c)
}

func (s *connections) forget(c net.Conn) {
	if e, ok := s.place[c]; ok {
		s.waiting.Remove(e)
		delete(s.place, c)
	}
}
