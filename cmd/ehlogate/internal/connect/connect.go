// Package connect writes the lines that connect an MTA other than Postfix: Sendmail, Exim and
// OpenSMTPD. It writes them for the operator to put in place, and changes nothing.
package connect

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// userPorts are the ports at which no stranger brings mail: submission and submissions (RFC 6409,
// RFC 8314), and those of milter.users.
func userPorts(c *config.Config) []string {
	ports := []string{"587", "465"}
	for _, user := range c.Milter.Users {
		if _, err := strconv.ParseUint(user, 10, 16); err == nil && !slices.Contains(ports, user) {
			ports = append(ports, user)
		}
	}
	return ports
}

// reach is the host and port of a listener on TCP. One on all addresses is reached on loopback.
func reach(key string, a config.Address) (host, port string, err error) {
	switch a.Network {
	case "":
		return "", "", fmt.Errorf("%s is none, and the MTA needs it; set it, for example to %s", key, config.DefaultAddress(key))
	case "unix":
		return "", "", fmt.Errorf("%s is %s, and the MTA needs TCP there: with the file of a unix socket missing it refuses mail; set it to %s", key, a, config.DefaultAddress(key))
	}
	if host, port, err = net.SplitHostPort(a.Address); err != nil {
		return "", "", fmt.Errorf("%s: %w", key, err)
	}
	if port == "0" {
		return "", "", fmt.Errorf("%s is %s, a port that is another one at each start; give it a number", key, a)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return host, port, nil
}
