package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ehlogate/ehlogate/contrib/e2e/filters"
)

// withFilters adds other people's milters to the contenders, as far as their programs are there:
// opendkim, which finds no signature, and rspamd, alone and with its own reputation of addresses in
// Redis, both without the modules that ask the network.
func (s *stand) withFilters() error {
	add := func(name, program string, helper int, start func(dir string) (filter, error)) error {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", name, err)
			return nil
		}
		dir := filepath.Join(s.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		f, err := start(dir)
		if err != nil {
			return err
		}
		s.stops = append(s.stops, f.Stop)
		_, port, _ := net.SplitHostPort(f.Milter()[len("inet:"):])
		s.contenders = append(s.contenders, &contender{name: name, milter: "127.0.0.1:" + port, pid: f.Pid(), helper: helper})
		return nil
	}
	if err := add("opendkim", "opendkim", 0, func(dir string) (filter, error) {
		d, err := filters.StartDNS(dir)
		if err != nil {
			return nil, err
		}
		s.stops = append(s.stops, d.Stop)
		return filters.StartOpenDKIM(dir, d)
	}); err != nil {
		return err
	}
	if err := add("rspamd", "rspamd", 0, func(dir string) (filter, error) {
		return filters.StartRspamd(dir, s.redis.Port, map[string]string{"local.d/greylist.conf": "enabled = false;\n", "local.d/reputation.conf": "enabled = false;\n"})
	}); err != nil {
		return err
	}
	return add("rspamd with reputation in Redis", "rspamd", s.redis.Pid(), func(dir string) (filter, error) {
		return filters.StartRspamd(dir, s.redis.Port, map[string]string{
			"local.d/greylist.conf":   "enabled = false;\n",
			"local.d/reputation.conf": fmt.Sprintf("rules { ip_reputation = { selector \"ip\" {} backend \"redis\" { servers = \"%s\"; } symbol = \"IP_REPUTATION\"; } }\n", s.redis.Addr()),
		})
	})
}

// filter is a milter of somebody else's.
type filter interface {
	Milter() string
	Pid() int
	Stop()
}
