package handler

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"orchestrate/internal/queue"
)

func TestCheckAddress(t *testing.T) {
	private := []string{"10.0.0.0/8", "127.0.0.1/32"}
	tests := []struct {
		name, addr string
		allow      []string
		want       string // how the error begins; empty: none
	}{
		{"public", "140.82.121.4", nil, ""},
		{"public IPv6", "2606:50c0:8000::153", nil, ""},
		{"loopback", "127.0.0.1", nil, "127.0.0.1 is loopback"},
		{"all of loopback", "127.255.255.254", nil, "127.255.255.254 is loopback"},
		{"loopback IPv6", "::1", nil, "::1 is loopback"},
		{"unspecified", "0.0.0.0", nil, "0.0.0.0 is unspecified"},
		{"unspecified IPv6", "::", nil, ":: is unspecified"},
		{"this network", "0.1.2.3", nil, `0.1.2.3 is of "this network"`},
		{"private 10", "10.1.2.3", nil, "10.1.2.3 is private"},
		{"private 172.16", "172.16.0.1", nil, "172.16.0.1 is private"},
		{"private 172.31", "172.31.255.255", nil, "172.31.255.255 is private"},
		{"behind private", "172.32.0.1", nil, ""},
		{"private 192.168", "192.168.1.1", nil, "192.168.1.1 is private"},
		{"ULA", "fd12:3456::1", nil, "fd12:3456::1 is private"},
		{"CGNAT", "100.64.0.1", nil, "100.64.0.1 is of a carrier's network"},
		{"end of CGNAT", "100.127.255.255", nil, "100.127.255.255 is of a carrier's network"},
		{"behind CGNAT", "100.128.0.1", nil, ""},
		{"link-local", "169.254.1.1", nil, "169.254.1.1 is link-local"},
		{"link-local IPv6", "fe80::1", nil, "fe80::1 is link-local"},
		{"link-local with a zone", "fe80::1%eth0", nil, "fe80::1 is link-local"},
		{"loopback with a zone", "::1%lo", nil, "::1 is loopback"},
		{"metadata", "169.254.169.254", nil, "169.254.169.254 is a metadata service"},
		{"metadata of containers", "169.254.170.2", nil, "169.254.170.2 is a metadata service"},
		{"metadata IPv6", "fd00:ec2::254", nil, "fd00:ec2::254 is a metadata service"},
		{"metadata of Google, IPv6", "fd20:ce::254", nil, "fd20:ce::254 is a metadata service"},
		{"metadata of Alibaba", "100.100.100.200", nil, "100.100.100.200 is a metadata service"},
		{"Azure's host", "168.63.129.16", nil, "168.63.129.16 is the host agent of Azure"},
		{"multicast", "224.0.0.1", nil, "224.0.0.1 is multicast"},
		{"multicast IPv6", "ff02::1", nil, "ff02::1 is multicast"},
		{"broadcast", "255.255.255.255", nil, "255.255.255.255 is broadcast"},
		{"reserved", "240.0.0.1", nil, "240.0.0.1 is reserved"},
		{"documentation 1", "192.0.2.1", nil, "192.0.2.1 is for documentation"},
		{"documentation 2", "198.51.100.1", nil, "198.51.100.1 is for documentation"},
		{"documentation 3", "203.0.113.1", nil, "203.0.113.1 is for documentation"},
		{"documentation IPv6", "2001:db8::1", nil, "2001:db8::1 is for documentation"},
		{"documentation IPv6, new", "3fff::1", nil, "3fff::1 is for documentation"},
		{"benchmarks", "198.19.0.1", nil, "198.19.0.1 is for benchmarks"},
		{"benchmarks IPv6", "2001:2::1", nil, "2001:2::1 is for benchmarks"},
		{"protocols", "192.0.0.8", nil, "192.0.0.8 is reserved for protocols"},
		{"protocols IPv6", "2001:1::1", nil, "2001:1::1 is reserved for protocols"},
		{"6to4 relay", "192.88.99.1", nil, "192.88.99.1 is of the former 6to4 relays"},
		{"discard", "100::1", nil, "100::1 is for discarding"},
		{"site-local", "fec0::1", nil, "fec0::1 is site-local"},
		{"segment routing", "5f00::1", nil, "5f00::1 is of segment routing"},
		{"not given to anybody", "4000::1", nil, "4000::1 is reserved"},
		{"not given, below", "1fff::1", nil, "1fff::1 is reserved"},
		{"not given, above", "e000::1", nil, "e000::1 is reserved"},
		{"mapped loopback", "::ffff:127.0.0.1", nil, "127.0.0.1 is loopback"},
		{"mapped, in hexadecimal", "::ffff:7f00:1", nil, "127.0.0.1 is loopback"},
		{"mapped metadata", "::ffff:169.254.169.254", nil, "169.254.169.254 is a metadata service"},
		{"mapped public", "::ffff:140.82.121.4", nil, ""},
		{"compatible loopback", "::127.0.0.1", nil, "::7f00:1 is IPv4-compatible"},
		{"translated", "::ffff:0:127.0.0.1", nil, "::ffff:0:7f00:1 is IPv4-translated"},
		{"NAT64", "64:ff9b::8.8.8.8", nil, "64:ff9b::808:808 is of a translator"},
		{"NAT64 of loopback", "64:ff9b::127.0.0.1", nil, "64:ff9b::7f00:1 is of a translator"},
		{"local NAT64", "64:ff9b:1::8.8.8.8", nil, "64:ff9b:1::808:808 is of a local translator"},
		{"6to4", "2002:808:808::1", nil, "2002:808:808::1 is of a 6to4 tunnel"},
		{"Teredo", "2001::f7f7:f7f7", nil, "2001::f7f7:f7f7 is of a Teredo tunnel"},

		{"allowed", "10.1.2.3", private, ""},
		{"allowed, loopback IPv6", "::1", []string{"::1/128"}, ""},
		{"allowed, unspecified IPv6", "::", []string{"::/128"}, ""},
		{"allowed, mapped", "::ffff:10.1.2.3", private, ""},
		{"one allowed, its neighbour not", "127.0.0.2", private, "127.0.0.2 is loopback"},
		{"allowed with a zone", "fe80::1%eth0", []string{"fe80::/10"}, ""},
		{"metadata in an allowed block", "169.254.169.254", []string{"169.254.0.0/16", "0.0.0.0/0"}, "169.254.169.254 is a metadata service"},
		{"metadata in an allowed block, IPv6", "fd00:ec2::254", []string{"fc00::/7"}, "fd00:ec2::254 is a metadata service"},
		{"metadata by itself", "169.254.169.254", []string{"169.254.169.254/32"}, ""},
		{"IPv6 block does not reach mapped ones", "::ffff:10.1.2.3", []string{"::/0"}, "10.1.2.3 is private"},
		{"NAT64 allowed, public", "64:ff9b::8.8.8.8", []string{"64:ff9b::/96"}, ""},
		{"NAT64 allowed, loopback", "64:ff9b::127.0.0.1", []string{"64:ff9b::/96"}, "64:ff9b::7f00:1 leads to 127.0.0.1, which is loopback"},
		{"NAT64 and private allowed", "64:ff9b::10.0.0.1", []string{"64:ff9b::/96", "10.0.0.0/8"}, ""},
		{"private allowed, NAT64 not", "64:ff9b::10.0.0.1", private, "64:ff9b::a00:1 is of a translator"},
		{"local NAT64 allowed, metadata", "64:ff9b:1::169.254.169.254", []string{"64:ff9b:1::/48"}, "64:ff9b:1::a9fe:a9fe leads to 169.254.169.254, which is a metadata"},
		{"6to4 allowed, private", "2002:a00:1::1", []string{"2002::/16"}, "2002:a00:1::1 leads to 10.0.0.1, which is private"},
		{"6to4 allowed, public", "2002:808:808::1", []string{"2002::/16"}, ""},
		{"Teredo allowed, loopback", "2001::80ff:fffe", []string{"2001::/32"}, "2001::80ff:fffe leads to 127.0.0.1, which is loopback"},
		{"compatible allowed, loopback", "::127.0.0.1", []string{"::/96"}, "::7f00:1 leads to 127.0.0.1, which is loopback"},
		{"translated allowed, loopback", "::ffff:0:127.0.0.1", []string{"::ffff:0:0:0/96"}, "::ffff:0:7f00:1 leads to 127.0.0.1, which is loopback"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			allow, err := parseAllowed(tt.allow)
			if err != nil {
				t.Fatal(err)
			}
			got := message(allow.check(netip.MustParseAddr(tt.addr)))
			if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
				t.Errorf("check(%s) with %v = %q, want %q…", tt.addr, tt.allow, got, tt.want)
			}
		})
	}
}

// TestRefusalNamesWhatAllows takes each refusal at its word.
func TestRefusalNamesWhatAllows(t *testing.T) {
	for _, b := range blocks {
		addr := b.prefix.Addr()
		var a allowed
		for range 2 { // the block, and what it leads to
			var refused *refusedError
			if !errors.As(a.check(addr), &refused) {
				break
			}
			_, cidr, _ := strings.Cut(refused.Error(), `allow_private: ["`)
			p, err := parseCIDR(strings.TrimSuffix(cidr, `"]`))
			if err != nil {
				t.Fatalf("%s: %v", refused, err)
			}
			a = append(a, p)
		}
		if err := a.check(addr); err != nil || len(a) == 0 {
			t.Errorf("%s with what its refusals name, %v: %v; want refusals, then none", addr, a, err)
		}
	}
}

func FuzzCheckAddress(f *testing.F) {
	for _, b := range blocks {
		f.Add(b.prefix.Addr().AsSlice(), "")
	}
	f.Add([]byte{10, 0, 0, 1}, "eth0")
	f.Fuzz(func(t *testing.T, raw []byte, zone string) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		got := allowed(nil).check(addr) == nil
		public := addr.Unmap().IsGlobalUnicast() && !addr.Unmap().IsPrivate()
		if got && !public {
			t.Errorf("check(%s) lets it pass", addr)
		}
		for _, same := range []netip.Addr{addr.Unmap(), netip.AddrFrom16(addr.As16()), netip.AddrFrom16(addr.As16()).WithZone(zone)} {
			if (allowed(nil).check(same) == nil) != got {
				t.Errorf("check(%s) passes: %t; its other form %s: %t", addr, got, same, !got)
			}
		}
	})
}

// nameServer answers DNS queries over a pipe: the addresses of any name, by how often
// IPv4 ones were asked for.
type nameServer struct {
	mu    sync.Mutex
	asked int
	with  func(n int) (code byte, addrs []string) // n from 1
	log   []string
}

func (n *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go n.serve(server)
		return client, nil
	}}
}

func (n *nameServer) note(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, what)
}

// serve speaks DNS as over TCP: a pipe is no packet connection.
func (n *nameServer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	var size [2]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		answer := n.answer(query)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func (n *nameServer) answer(query []byte) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the zero, type and class
	v4 := query[end-3] == 1
	n.mu.Lock()
	if v4 {
		n.asked++
		n.log = append(n.log, "lookup")
	}
	code, all := n.with(max(n.asked, 1))
	n.mu.Unlock()
	var records []byte
	count := 0
	for _, s := range all {
		if addr := netip.MustParseAddr(s); addr.Is4() == v4 {
			raw := addr.AsSlice()
			records = append(records, 0xc0, 12, 0, query[end-3], 0, 1, 0, 0, 0, 0, 0, byte(len(raw)))
			records = append(records, raw...)
			count++
		}
	}
	head := []byte{query[0], query[1], 0x84, 0x80 | code, 0, 1, 0, byte(count), 0, 0, 0, 0}
	return slices.Concat(head, query[12:end], records)
}

// TestRebinding has a name that is public when it is asked for first and
// loopback from then on, with something that listens there.
func TestRebinding(t *testing.T) {
	var requests atomic.Int32
	srv := receiver(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	dns := &nameServer{with: func(n int) (byte, []string) {
		if n == 1 {
			return 0, []string{"140.82.121.4"}
		}
		return 0, []string{"127.0.0.1"}
	}}
	h := newForward(t, Forward{URL: "http://mirror.test:" + port})
	h.dialer.Resolver = dns.resolver()
	check := h.dialer.check
	h.dialer.check = func(addr netip.Addr) error {
		if err := check(addr); err != nil {
			dns.note("refused " + addr.String())
			return err
		}
		dns.note("passed " + addr.String())
		return syscall.ECONNREFUSED // instead of connecting to a stranger
	}
	_, err := h.Handle(t.Context(), task(`{}`))
	if kindOf(err) != "unavailable" {
		t.Errorf("with a public address: %s %v, want unavailable", kindOf(err), err)
	}
	_, err = h.Handle(t.Context(), task(`{}`))
	want := `mirror.test:` + port + `: 127.0.0.1 is loopback, this machine; to send there all the same: allow_private: ["127.0.0.1/32"]`
	if kindOf(err) != "permanent" || message(err) != want {
		t.Errorf("once it is loopback: %s %q, want permanent %q", kindOf(err), message(err), want)
	}
	// One lookup a connection, and the check of just what it gave.
	wantLog := []string{"lookup", "passed 140.82.121.4", "lookup", "refused 127.0.0.1"}
	if !slices.Equal(dns.log, wantLog) {
		t.Errorf("what happened: %q, want %q", dns.log, wantLog)
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("the loopback server had %d requests, want none", n)
	}
}

// TestCheckIsOfTheConnection: whatever the name was looked up for, the address
// that the system is to connect to is what is checked.
func TestCheckIsOfTheConnection(t *testing.T) {
	var accepted atomic.Int32
	addr := rawReceiver(t, func(net.Conn) { accepted.Add(1) })
	d := &dialer{check: allowed(nil).check}
	_, err := d.dial(t.Context(), "tcp", addr)
	var refused *refusedError
	var op *net.OpError
	if !errors.As(err, &refused) || !errors.As(err, &op) || op.Addr.String() != addr {
		t.Errorf("dial %s = %v, want a refusal from within the dialling of that address", addr, err)
	}
	if n := accepted.Load(); n != 0 {
		t.Errorf("%d connections were made, want none", n)
	}
}

func TestResolved(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	srv := receiver(t, func(http.ResponseWriter, *http.Request) {})
	open := srv.Listener.Addr()
	tests := []struct {
		name  string
		to    net.Addr
		code  byte
		addrs []string
		kind  string
		err   string
	}{
		{"one refused, one allowed", open, 0, []string{"10.0.0.1", "127.0.0.1"}, "done", ""},
		{"refused IPv6, allowed IPv4", open, 0, []string{"fd00:ec2::254", "127.0.0.1"}, "done", ""},
		{"all refused", open, 0, []string{"10.0.0.1", "169.254.169.254"}, "permanent", "10.0.0.1 is private"},
		{"one refused, one closed", closed.Addr(), 0, []string{"127.0.0.2", "127.0.0.1"}, "unavailable", "none of the addresses that may be dialled answers"},
		{"closed", closed.Addr(), 0, []string{"127.0.0.1"}, "unavailable", "connection refused"},
		{"no such name", open, 3, nil, "retry", "no such host"},
		{"a name without addresses", open, 0, nil, "retry", "no such host"},
		{"server of names fails", open, 2, nil, "unavailable", "server misbehaving"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, port, _ := net.SplitHostPort(tt.to.String())
			h := newForward(t, Forward{URL: "http://mirror.test:" + port, AllowPrivate: []string{"127.0.0.1/32"}})
			h.dialer.Resolver = (&nameServer{with: func(int) (byte, []string) { return tt.code, tt.addrs }}).resolver()
			_, err := h.Handle(t.Context(), task(`{}`))
			if kindOf(err) != tt.kind || !strings.Contains(message(err), tt.err) {
				t.Errorf("outcome = %s %q, want %s with %q", kindOf(err), message(err), tt.kind, tt.err)
			}
		})
	}
}

func TestAllowPrivateErrors(t *testing.T) {
	tests := []struct{ name, cidr, want string }{
		{"word", "private", `"private": want a CIDR, as in 10.0.0.0/8 or fd00::/8`},
		{"empty", "", `"": want a CIDR, as in 10.0.0.0/8 or fd00::/8`},
		{"address", "10.0.0.7", "10.0.0.7 is an address: want a CIDR, as in 10.0.0.7/32"},
		{"IPv6 address", "::1", "::1 is an address: want a CIDR, as in ::1/128"},
		{"bits behind", "10.1.2.3/8", "10.1.2.3/8 has bits set behind its first 8: want 10.0.0.0/8, or 10.1.2.3/32 for the one address"},
		{"too many bits", "10.0.0.0/33", `"10.0.0.0/33": want a CIDR, as in 10.0.0.0/8 or fd00::/8`},
		{"mapped", "::ffff:10.0.0.0/104", "::ffff:10.0.0.0/104: want its IPv4 form, 10.0.0.0/8, which counts for both"},
		{"public", "193.168.0.0/16", "193.168.0.0/16 is public, so it needs no entry; is it a slip of the pen?"},
		{"zone", "fe80::%eth0/64", `"fe80::%eth0/64": want a CIDR, as in 10.0.0.0/8 or fd00::/8`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewForward(Forward{URL: "https://mirror.example", AllowPrivate: []string{"10.0.0.0/8", tt.cidr}}, nil)
			var field *queue.FieldError
			if !errors.As(err, &field) || field.Field != "forward.allow_private[1]" || field.Err.Error() != tt.want {
				t.Errorf("error = %v, want forward.allow_private[1]: %s", err, tt.want)
			}
		})
	}
}
