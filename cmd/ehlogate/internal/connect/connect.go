// Package connect writes the lines that connect an MTA other than Postfix: Sendmail, Exim and
// OpenSMTPD. It writes them for the operator to put in place, and changes nothing.
package connect

import (
	"fmt"
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

// reach is the host and port of a listener, which has to be on TCP.
func reach(key string, a config.Address) (host, port string, err error) {
	if err := a.Wanted(key, "the MTA"); err != nil {
		return "", "", err
	}
	if a.Network == "unix" {
		return "", "", fmt.Errorf("%s is %s, and the MTA needs TCP there: with the file of a unix socket missing it refuses mail; set it to %s", key, a, config.DefaultAddress(key))
	}
	return a.Reach(key, false)
}
