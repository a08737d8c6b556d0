package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// keyKinds are the keys of the MTA's certificate.
var keyKinds = []struct {
	name string
	make func() (crypto.Signer, error)
}{
	{"RSA-2048", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }},
	{"RSA-4096", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 4096) }},
	{"ECDSA P-256", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
}

// answers to a flood, by the configuration of the daemon: STARTTLS withheld from all that are not
// known to be good, and beyond that their mail refused.
var floodPolicies = []struct{ name, tiers string }{
	{"ehlogate, withheld", ""},
	{"ehlogate, withheld, refused at RCPT", "action = 'reject'\n"},
	{"ehlogate, withheld, refused at MAIL", "action = 'reject'\nstage = 'mail'\n"},
	{"ehlogate, withheld, refused at CONNECT", "action = 'reject'\nstage = 'connect'\n"},
}

// flood measures what a session of a drone costs Postfix and us together in processor time: over
// TLS, which Postfix offers by itself, and in the clear, where we withhold it.
func flood(rounds, n int) (figures []figure, err error) {
	s, err := newStand("[policy]\nmode = 'earn'\n")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	chains := map[string]string{}
	for _, k := range keyKinds {
		path := filepath.Join(s.dir, strings.ReplaceAll(k.name, " ", "-")+".pem")
		if err := writeChain(path, k.make); err != nil {
			return nil, err
		}
		chains[k.name] = path
	}
	kinds := []struct{ name, verdict string }{{"without a message", ""}, {"with a message", "YES"}}
	table := make([]*series, len(kinds))
	for i, k := range kinds {
		table[i] = newSeries("processor time of Postfix and all beside it, a drone's session "+k.name, "ms")
	}
	total := func(c *contender, name string, verdicts int, session func(client string) error) error {
		// The first sessions start processes of Postfix, and fill the client's cache of sessions.
		if err := oneByOne(warmUp, session)(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		x, err := s.measure(c, oneByOne(n, session))
		if err == nil {
			table[verdicts].add(name, float64((x.postfix+x.own).Microseconds())/1000/float64(n))
			return nil
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	none, ours := s.contenders[0], s.contenders[2]
	d := s.daemons[embedded]
	for range rounds {
		for _, p := range floodPolicies {
			if err := d.Configure("[policy]\nmode = 'earn'\n[[policy.tier]]\nname = 'unknown'\n" + p.tiers + "[[policy.tier]]\nname = 'suspect'\n" + p.tiers + "[[policy.tier]]\nname = 'bad'\n" + p.tiers); err != nil {
				return nil, err
			}
			if err := d.Signal(syscall.SIGHUP); err != nil {
				return nil, err
			}
			if err := s.connect(ours, "smtpd_tls_chain_files = "+chains["ECDSA P-256"]); err != nil {
				return nil, err
			}
			for i, k := range kinds {
				if err := total(ours, p.name, i, func(client string) error { return s.drone(client, nil, k.verdict, p.tiers != "") }); err != nil {
					return nil, err
				}
			}
		}
		for _, key := range keyKinds {
			if err := s.connect(none, "smtpd_tls_chain_files = "+chains[key.name]); err != nil {
				return nil, err
			}
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				for _, resumed := range []bool{false, true} {
					config := &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, ServerName: "mx.example"}
					name := fmt.Sprintf("Postfix alone, %s, %s", key.name, tls.VersionName(version))
					if resumed {
						config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
						name += ", resumed"
					}
					for i, k := range kinds {
						if err := total(none, name, i, func(client string) error { return s.drone(client, config, k.verdict, false) }); err != nil {
							return nil, err
						}
					}
				}
			}
		}
	}
	for i := range kinds {
		figures = append(figures, table[i].figures(floodPolicies[0].name, nil)...)
	}
	return figures, nil
}

// drone is a session of a drone: over TLS if it is given how, else in the clear. Refused says that
// it is refused, which is what is measured then.
func (s *stand) drone(client string, config *tls.Config, verdict string, refused bool) error {
	var start func(*mx.Session) error
	if config != nil {
		start = func(c *mx.Session) error {
			if err := c.StartTLS(config); err != nil {
				return err
			}
			// The ticket of TLS 1.3 comes with the first answer after the handshake.
			return c.Noop()
		}
	}
	err := s.send(client, start, verdict)
	if refused {
		return nil
	}
	return err
}

// writeChain writes a key and a certificate for a Postfix.
func writeChain(path string, makeKey func() (crypto.Signer, error)) error {
	key, err := makeKey()
	if err != nil {
		return err
	}
	chain, err := mx.SelfSignedBy("mx.example", key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(chain), 0o600)
}
