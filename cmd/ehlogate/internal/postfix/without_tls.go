package postfix

import (
	"errors"
	"fmt"
	"strings"
)

// WithoutTLS is the line by which STARTTLS is offered to nobody at the services that take mail from
// strangers, and the one that takes it back. Services of users keep theirs.
func (p *Postfix) WithoutTLS() (line, back string, err error) {
	var set, unset []string
	add := func(s *service, name string) {
		set = append(set, quoted(s.key()+"/"+name+"=none"))
		unset = append(unset, quoted(s.key()+"/"+name))
	}
	for _, s := range p.of(exchanger) {
		if s.tlsLevel() != "none" {
			add(s, tlsLevel)
		}
	}
	for _, s := range p.services {
		if s.command == "postscreen" {
			add(s, "postscreen_tls_security_level")
		}
	}
	if len(set) == 0 {
		return "", "", errors.New("postfix: STARTTLS is offered to strangers by no service: " + p.roles())
	}
	begin := fmt.Sprintf("postconf -c %s", quoted(p.Dir))
	return begin + " -P " + strings.Join(set, " ") + " && " + p.reloading(), begin + " -PX " + strings.Join(unset, " ") + " && " + p.reloading(), nil
}

// reloading is the command that has this Postfix read its configuration again.
func (p *Postfix) reloading() string { return fmt.Sprintf("postfix -c %s reload", quoted(p.Dir)) }
