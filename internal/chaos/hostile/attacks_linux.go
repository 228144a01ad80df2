package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

// attack is what strangers do.
type attack struct {
	name  string
	make  func(*visit) error
	flood bool // its refusals are counted against the processor
	alone bool // no good deliveries meanwhile
	fills bool // good deliveries may find the memory full
}

const head = "POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: bad\r\n" +
	"X-Hub-Signature-256: sha256=0000000000000000000000000000000000000000000000000000000000000000\r\n"

const (
	largest   = 25 << 20
	sentAgain = 5 // of the largest that were refused
)

var attacks = []attack{
	{name: "nothing", make: func(v *visit) error { return v.hold(0, "", "") }},
	{name: "slow headers", make: func(v *visit) error { return v.hold(v.o.connections, "POST /webhooks/github HTTP/1.1\r\nX-A: ", "a") }},
	{name: "large headers that do not end", make: func(v *visit) error {
		return v.hold(v.o.connections, "POST /webhooks/github HTTP/1.1\r\n"+strings.Repeat("X-A: "+strings.Repeat("a", 90)+"\r\n", 150), "a")
	}},
	{name: "slow bodies", make: func(v *visit) error {
		return v.hold(v.o.connections, head+"Content-Length: 26214400\r\n\r\n{", " ")
	}},
	{name: "announced, never sent", make: func(v *visit) error {
		v.ends = v.ends.Add(2 * v.o.last) // it takes a while to fill the memory in this way
		return v.hold(3*v.o.connections, head+"Content-Length: 26214400\r\n\r\n", "")
	}},
	{name: "endless chunks", make: func(v *visit) error {
		return v.floods(8, head+"Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("10000\r\n"+strings.Repeat(" ", 1<<16)+"\r\n", 16), 500)
	}},
	{name: "many headers", make: func(v *visit) error { return v.floods(16, head, strings.Repeat("a: b\r\n", 1<<12), 1000) }},
	{name: "a header without end", make: func(v *visit) error { return v.floods(16, head+"X-A: ", strings.Repeat("a", 1<<16), 400) }},
	{name: "two lengths", make: func(v *visit) error {
		return v.requests(16, head+"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", http.StatusBadRequest, 1)
	}},
	{name: "wrong signatures alone", flood: true, alone: true, make: func(v *visit) error {
		return v.signatures(head + "Content-Length: 2\r\n\r\n{}")
	}},
	{name: "wrong signatures", flood: true, make: func(v *visit) error {
		body := `{"pad":"` + strings.Repeat("x", 1<<10) + `"}`
		return v.signatures(head + "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	}},
	{name: "no signature", flood: true, make: func(v *visit) error {
		return v.signatures("POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	}},
	{name: "25 MiB at once", fills: true, make: (*visit).large},
}

// hold opens n connections that send begin and then a drop every 100 ms. Those
// that the server closes are replaced: there are always as many.
func (v *visit) hold(n int, begin, drop string) error {
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for !v.over() {
		for i, c := range conns {
			if c != nil {
				if _, err := io.WriteString(c, drop); err == nil && alive(c) {
					continue
				}
				_ = c.Close()
			}
			c, err := v.dial()
			if err != nil {
				return err
			}
			conns[i] = c
			_, _ = io.WriteString(c, begin) // it may have been closed already
		}
		select {
		case <-v.ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return v.ctx.Err()
}

// alive tells whether the server has neither answered nor closed.
func alive(c net.Conn) bool {
	_ = c.SetReadDeadline(queue.Clock().Add(time.Microsecond))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// floods sends begin and then piece up to n times, from several at a time; the
// server must end that.
func (v *visit) floods(several int, begin, piece string, n int) error {
	return v.several(several, func() error {
		c, err := v.dial()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = io.WriteString(c, begin)
		for i := 0; err == nil; i++ {
			if i == n {
				return fmt.Errorf("%d bytes were taken without an end", len(begin)+n*len(piece))
			}
			_, err = io.WriteString(c, piece)
		}
		v.refused.Add(1)
		return nil
	})
}

// requests sends request on a connection of its own each time.
func (v *visit) requests(several int, request string, status, each int) error {
	return v.several(several, func() error {
		c, err := v.dial()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		return v.exchange(c, request, status, each)
	})
}

func (v *visit) exchange(c net.Conn, request string, status, each int) error {
	if _, err := io.WriteString(c, strings.Repeat(request, each)); err != nil {
		return err
	}
	in := bufio.NewReaderSize(c, 64<<10)
	for range each {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		if res.StatusCode != status {
			err = fmt.Errorf("answered %d, want %d", res.StatusCode, status)
		}
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return err
		}
		v.refused.Add(1)
	}
	return nil
}

// signatures sends requests of wrong signatures as fast as they are answered.
// Where nothing else goes on, nothing is written but a worker's heartbeat.
func (v *visit) signatures(request string) error {
	salt, before, err := v.written()
	if err != nil {
		return err
	}
	if err := v.requests(8, request, http.StatusUnauthorized, 50); err != nil {
		return err
	}
	now, pages, err := v.written()
	if v.alone && (now != salt || pages-before > heartbeats) {
		v.complain("%d pages were written for %d refusals, to log %x and then %x", pages-before, v.refused.Load(), salt, now)
	}
	return err
}

// several runs fn at so many places, again and again.
func (v *visit) several(n int, fn func() error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil && !v.over() {
				errs[i] = fn()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// large sends the largest bodies all at once: each is stored, or refused with a
// 503 that says when to come again, and stored then.
func (v *visit) large() error {
	body := append(bytes.Repeat([]byte(" "), largest-2), '{', '}')
	signature := webhook.Sign(body, []byte(chaos.Secret))
	answers := make([]int, v.o.bodies)
	var wg sync.WaitGroup
	for i := range answers {
		v.connections.Add(1)
		wg.Go(func() { answers[i] = v.post(fmt.Sprint("large-", i), body, signature) })
	}
	wg.Wait()
	stored := 0
	for i, status := range answers {
		if status != http.StatusOK {
			v.refused.Add(1)
			if v.refused.Load() > sentAgain {
				continue
			}
			status = v.post(fmt.Sprint("large-", i), body, signature)
		}
		if status != http.StatusOK {
			v.complain("25 MiB at once: %d was refused twice, %d at last", i, status)
			continue
		}
		stored++
	}
	if v.refused.Load() == 0 {
		v.complain("25 MiB at once: none of %d was refused, so that the bound was not reached", v.o.bodies)
	}
	v.strangers.Add(int64(stored))
	return v.storedLarge(body, stored)
}

// storedLarge looks whether each is stored, byte for byte.
func (v *visit) storedLarge(body []byte, want int) error {
	db, err := chaos.Open(v.site.Database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var n int
	err = db.QueryRowContext(v.ctx, `SELECT count(*) FROM webhook_payloads WHERE body = $1`, body).Scan(&n)
	if err == nil && n < want { // one that was answered 503 may be stored all the same
		v.complain("25 MiB at once: %d are stored, want %d at least", n, want)
	}
	return err
}

func (v *visit) post(id string, body []byte, signature string) int {
	req, err := http.NewRequestWithContext(v.ctx, http.MethodPost, "http://"+v.site.Listen+"/webhooks/github", bytes.NewReader(body))
	if err != nil {
		return 0
	}
	for name, value := range map[string]string{"Content-Type": "application/json", webhook.HeaderEvent: "push", webhook.HeaderDelivery: id, webhook.HeaderSignature: signature} {
		req.Header.Set(name, value)
	}
	res, err := v.sender.Client.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "" {
		return 0 // a 503 has to say when to come again
	}
	return res.StatusCode
}
