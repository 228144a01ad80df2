package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"orchestrate/internal/queue"
)

// connectTimeout bounds a connection's making, names included: what drops
// packets instead of refusing them must not hold a slot for a whole attempt.
const connectTimeout = 10 * time.Second

// dialer connects to addresses that pass a check. It is made when the address
// is known and right before the connection to that very address: a name that
// resolves to something else a moment later gains nothing.
type dialer struct {
	net.Dialer
	check func(netip.Addr) error
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var tried atomic.Bool
	nd := d.Dialer
	nd.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err == nil {
			err = d.check(a.Addr())
		}
		if err == nil {
			tried.Store(true)
		}
		return err
	}
	conn, err := nd.DialContext(ctx, network, address)
	var refused *refusedError
	if errors.As(err, &refused) && tried.Load() {
		// The dialer returns the first error of several. That of an address
		// which may be dialled tells more, and it may answer another time.
		return nil, &net.OpError{Op: "dial", Net: network, Err: errNoneAnswers}
	}
	return conn, err
}

var errNoneAnswers = errors.New("none of the addresses that may be dialled answers")

// refusedError says that nothing is sent to an address.
type refusedError struct {
	addr netip.Addr
	via  netip.Addr // the IPv6 address that leads there; invalid if none
	block
}

func (e *refusedError) Error() string {
	addr := e.addr.String()
	if e.via.IsValid() {
		addr = fmt.Sprintf("%s leads to %s, which", e.via, e.addr)
	}
	return fmt.Sprintf("%s is %s; to send there all the same: allow_private: [%q]",
		addr, e.is, netip.PrefixFrom(e.addr, e.addr.BitLen()))
}

// allowed are the blocks of special addresses that may be dialled.
type allowed []netip.Prefix

// check refuses every address that is not a host of the public internet, unless
// it is allowed. An address that holds an IPv4 address has to pass as both.
func (a allowed) check(addr netip.Addr) error {
	addr = plain(addr)
	if err := a.checkOne(addr); err != nil {
		return err
	}
	inner, ok := embedded(addr)
	if !ok {
		return nil
	}
	if err := a.checkOne(inner); err != nil {
		err.via = addr
		return err
	}
	return nil
}

func (a allowed) checkOne(addr netip.Addr) *refusedError {
	b, special := blockOf(addr)
	if !special || slices.ContainsFunc(a, func(p netip.Prefix) bool { return p.Contains(addr) && (!b.alone || p.IsSingleIP()) }) {
		return nil
	}
	return &refusedError{addr: addr, block: b}
}

// plain is the address that is meant: an IPv4-mapped one is IPv4 to the kernel,
// and a zone, with which no prefix contains an address, only picks an interface.
func plain(addr netip.Addr) netip.Addr { return addr.WithZone("").Unmap() }

// block is a range of addresses and what they are.
type block struct {
	prefix netip.Prefix
	is     string // completes "10.0.0.7 is"
	alone  bool   // allowed by an entry of just this address only
}

// blocks are the ranges that the special-purpose address registries of IANA do
// not call globally reachable (iana.org/assignments/iana-ipv4-special-registry
// and iana-ipv6-special-registry, of October 2025; 2001::/23 as a whole), those
// of multicast and deprecated ones, and what lies outside 2000::/3, the only
// part of IPv6 that is given to networks. The first that contains an address
// counts.
var blocks = parseBlocks(`
	168.63.129.16/32      !the host agent of Azure
	169.254.169.254/32    !a metadata service of clouds, which hands out credentials
	169.254.170.2/32      !a metadata service of clouds, which hands out credentials
	169.254.170.23/32     !a metadata service of clouds, which hands out credentials
	100.100.100.200/32    !a metadata service of clouds, which hands out credentials
	192.0.0.192/32        !a metadata service of clouds, which hands out credentials
	fd00:ec2::254/128     !a metadata service of clouds, which hands out credentials
	fd00:ec2::23/128      !a metadata service of clouds, which hands out credentials
	fd20:ce::254/128      !a metadata service of clouds, which hands out credentials
	fd00:42::42/128       !a metadata service of clouds, which hands out credentials

	0.0.0.0/32            unspecified, which systems take for themselves
	0.0.0.0/8             of "this network"
	10.0.0.0/8            private
	100.64.0.0/10         of a carrier's network (CGNAT)
	127.0.0.0/8           loopback, this machine
	169.254.0.0/16        link-local
	172.16.0.0/12         private
	192.0.0.0/24          reserved for protocols
	192.0.2.0/24          for documentation
	192.88.99.0/24        of the former 6to4 relays
	192.168.0.0/16        private
	198.18.0.0/15         for benchmarks
	198.51.100.0/24       for documentation
	203.0.113.0/24        for documentation
	224.0.0.0/4           multicast
	255.255.255.255/32    broadcast
	240.0.0.0/4           reserved

	::/128                unspecified, which systems take for themselves
	::1/128               loopback, this machine
	::/96                 IPv4-compatible, which is deprecated
	::ffff:0:0:0/96       IPv4-translated
	64:ff9b::/96          of a translator to IPv4 (NAT64)
	64:ff9b:1::/48        of a local translator to IPv4 (NAT64)
	100::/64              for discarding
	2001::/32             of a Teredo tunnel to IPv4
	2001:2::/48           for benchmarks
	2001:db8::/32         for documentation
	2001::/23             reserved for protocols
	2002::/16             of a 6to4 tunnel to IPv4
	3fff::/20             for documentation
	5f00::/16             of segment routing
	fc00::/7              private (ULA)
	fe80::/10             link-local
	fec0::/10             site-local, which is deprecated
	ff00::/8              multicast
	::/3                  reserved
	4000::/2              reserved
	8000::/1              reserved
`)

func parseBlocks(table string) (all []block) {
	for line := range strings.Lines(table) {
		prefix, is, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		is, alone := strings.CutPrefix(strings.TrimSpace(is), "!")
		all = append(all, block{netip.MustParsePrefix(prefix), is, alone})
	}
	return all
}

func blockOf(addr netip.Addr) (block, bool) {
	i := slices.IndexFunc(blocks, func(b block) bool { return b.prefix.Contains(addr) })
	if i < 0 {
		return block{}, false
	}
	return blocks[i], true
}

// Where IPv6 addresses hold the IPv4 address that a packet ends at.
var (
	tailed = []netip.Prefix{
		netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96"),
		netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	}
	teredo = netip.MustParsePrefix("2001::/32")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// embedded is the IPv4 address within an IPv6 address. Of 64:ff9b:1::/48 it is
// that of a /96 within, as translators have it by default.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	b := addr.As16()
	switch {
	case addr.IsUnspecified(), addr.IsLoopback(): // within ::/96, but no IPv4 address
	case sixTo4.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(addr): // RFC 4380: the client's address, inverted
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	case slices.ContainsFunc(tailed, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	}
	return netip.Addr{}, false
}

// parseAllowed reads the CIDRs of allow_private; it returns those that can be
// used, whatever the others.
func parseAllowed(cidrs []string) (a allowed, err error) {
	for i, s := range cidrs {
		p, pErr := parseCIDR(s)
		if pErr != nil {
			err = errors.Join(err, &queue.FieldError{Field: fmt.Sprintf("forward.allow_private[%d]", i), Err: pErr})
			continue
		}
		a = append(a, p)
	}
	return a, err
}

func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return p, fmt.Errorf("%s is an address: want a CIDR, as in %s", s, netip.PrefixFrom(addr, addr.BitLen()))
	}
	switch {
	case err != nil:
		return p, fmt.Errorf("%q: want a CIDR, as in 10.0.0.0/8 or fd00::/8", s)
	case p != p.Masked():
		return p, fmt.Errorf("%s has bits set behind its first %d: want %s, or %s for the one address",
			s, p.Bits(), p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s: want its IPv4 form, %s, which counts for both", s, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96))
	case !slices.ContainsFunc(blocks, func(b block) bool { return b.prefix.Overlaps(p) }):
		return p, fmt.Errorf("%s is public, so it needs no entry; is it a slip of the pen?", s)
	}
	return p, nil
}
