package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseAddr reads an address in any spelling that MTAs, filters and people use: bare, in brackets,
// with an "IPv6:" prefix in any case (RFC 5321 section 4.1.3), written out, with a zone, mapped.
// What it returns is unmapped and has no zone.
func ParseAddr(s string) (netip.Addr, error) {
	s = strings.TrimSpace(s)
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if len(s) > 5 && strings.EqualFold(s[:5], "ipv6:") {
		s = s[5:]
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		if len(s) > 64 {
			s = s[:64] + "..."
		}
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return PlainAddr(addr), nil
}

// PlainAddr is an address unmapped and without its zone, as all of ehlogate takes addresses.
func PlainAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// IsHere reports the address of this host itself, 127.0.0.1 or ::1. Mail comes from it that filters
// put back and that programs submit: it is no client, and nothing is learnt of it.
func IsHere(addr netip.Addr) bool {
	return addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback()
}

// Domain is the domain of a mail address, lower-case, or "" where there is none: what
// stands for itself is a local part.
func Domain(address string) string {
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		return strings.ToLower(address[i+1:])
	}
	return ""
}
