package filters

import (
	"fmt"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// OpenDKIM is a private opendkim that verifies.
type OpenDKIM struct {
	port int
	*process
}

// StartOpenDKIM starts one in an empty directory, which asks a name server.
func StartOpenDKIM(dir string, d *DNS) (*OpenDKIM, error) {
	ports, err := mx.FreePorts(1)
	if err != nil {
		return nil, err
	}
	o := &OpenDKIM{port: ports[0]}
	conf := fmt.Sprintf("Mode v\nSocket inet:%d@127.0.0.1\nAuthservID mx.example\nAlwaysAddARHeader yes\nSyslog no\nUserID nobody\nNameservers %s\n", o.port, d.Addr)
	if err := write(dir, map[string]string{"opendkim.conf": conf}); err != nil {
		return nil, err
	}
	if o.process, err = start(dir, "/usr/sbin/opendkim", "-f", "-x", dir+"/opendkim.conf"); err != nil {
		return nil, err
	}
	return o, o.listens(o.port)
}

// Milter is its milter as smtpd_milters wants it.
func (o *OpenDKIM) Milter() string { return fmt.Sprintf("inet:127.0.0.1:%d", o.port) }

// Stop stops it.
func (o *OpenDKIM) Stop() { o.stop() }
