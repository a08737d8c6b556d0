package api

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// OnlyTo has the token sent only to a program of root's, or of the user who owns a file: while the
// daemon is down, any user of this host can listen at its port.
func (c *Client) OnlyTo(tokenFile string) {
	c.tokenFile = tokenFile
	if info, err := os.Stat(tokenFile); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			c.owners = []int{0, int(stat.Uid)}
		}
	}
}

// stranger is an error if somebody else listens at the daemon's port on this host.
func (c *Client) stranger() error {
	u, err := url.Parse(c.base)
	if err != nil || c.owners == nil || c.http.Transport != nil {
		return nil
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return nil
	}
	host := u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.IsLoopback() {
		return nil
	}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, uid := range listeners(file, addr, uint16(port)) {
			if slices.Contains(c.owners, uid) {
				continue
			}
			name := strconv.Itoa(uid)
			if u, err := user.LookupId(name); err == nil {
				name = u.Username
			}
			return fmt.Errorf("a program of user %s listens at %s, and not the daemon, to whose user the token belongs; the token was not sent to it", name, net.JoinHostPort(host, u.Port()))
		}
	}
	return nil
}

// listeners are the users of the sockets that listen at a port, on an address or on all, as
// proc_net_tcp(5) has them.
func listeners(file string, addr netip.Addr, port uint16) (uids []int) {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	const listen = "0A"
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 || fields[3] != listen {
			continue
		}
		text, hexPort, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(hexPort, 16, 16); err != nil || uint16(n) != port {
			continue
		}
		local, ok := procAddr(text)
		if !ok || local != addr && !local.IsUnspecified() {
			continue
		}
		if uid, err := strconv.Atoi(fields[7]); err == nil {
			uids = append(uids, uid)
		}
	}
	return uids
}

// procAddr reads an address as /proc/net has it: words of four bytes in the machine's order, which
// is little endian on all that Go runs on but a few.
func procAddr(text string) (netip.Addr, bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(b)
	return addr.Unmap(), ok
}
