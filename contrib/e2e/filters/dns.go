package filters

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/miekg/dns"
)

// DNS is a name server for tests, on an address of loopback, and for all names: what it has not, is
// not.
type DNS struct {
	// ResolvConf is a file in the form of resolv.conf(5) that names it.
	ResolvConf string
	// Addr is its address, with port 53.
	Addr    string
	records map[string][]dns.RR
	servers []*dns.Server
}

// StartDNS starts one that has some records, each in the form of a zone file.
func StartDNS(dir string, records ...string) (*DNS, error) {
	d := &DNS{ResolvConf: filepath.Join(dir, "resolv.conf"), records: map[string][]dns.RR{}}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			return nil, fmt.Errorf("filters: DNS: %q: %w", text, err)
		}
		name := strings.ToLower(rr.Header().Name)
		d.records[name] = append(d.records[name], rr)
	}
	// resolv.conf(5) knows no port: each server has an address of its own.
	for host := 1; host < 255; host++ {
		addr := fmt.Sprintf("127.53.0.%d:53", host)
		packets, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			packets.Close()
			continue
		}
		for _, s := range []*dns.Server{{PacketConn: packets, Handler: d}, {Listener: l, Handler: d}} {
			d.servers = append(d.servers, s)
			go s.ActivateAndServe()
		}
		d.Addr = fmt.Sprintf("127.53.0.%d", host)
		return d, os.WriteFile(d.ResolvConf, []byte(fmt.Sprintf("nameserver 127.53.0.%d\noptions timeout:1 attempts:1\n", host)), 0o644)
	}
	return nil, fmt.Errorf("filters: DNS: no address of 127.53.0.0/24 has a free port 53")
}

// ServeDNS answers a question.
func (d *DNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	for _, question := range q.Question {
		known, ok := d.records[strings.ToLower(question.Name)]
		if !ok {
			m.Rcode = dns.RcodeNameError
		}
		for _, rr := range known {
			if rr.Header().Rrtype == question.Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	w.WriteMsg(m)
}

// Stop stops it.
func (d *DNS) Stop() {
	for _, s := range d.servers {
		s.Shutdown()
	}
}
