package postfix

import (
	"slices"
	"strings"
)

// rejectsPlaintext reports whether a restriction asks for TLS.
func (s *service) rejectsPlaintext() bool { return s.has(lists, rejectPlaintext) }

const rejectPlaintext = "reject_plaintext_session"

// restrictions are the lists that decide who may send, in the order of smtpd(8).
var restrictions = []string{
	"smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions", "smtpd_relay_restrictions", "smtpd_recipient_restrictions",
}

// loginsAndCertificates are what lets in clients that are known by more than their address.
var loginsAndCertificates = []string{"permit_sasl_authenticated", "permit_tls_clientcerts", "permit_tls_all_clientcerts"}

// list is a list of restrictions, with those of restriction classes in the place of their names
// (RESTRICTION_CLASS_README).
func (s *service) list(name string) []string { return s.withClasses(split(s.value(name)), 0) }

// deepest is how deep restriction classes may name each other.
const deepest = 10

func (s *service) withClasses(list []string, depth int) (all []string) {
	classes := split(s.value("smtpd_restriction_classes"))
	for _, r := range list {
		if depth < deepest && slices.Contains(classes, r) {
			all = append(all, s.withClasses(split(s.value(r)), depth+1)...)
		} else {
			all = append(all, r)
		}
	}
	return all
}

// lists are all lists of restrictions.
var lists = append([]string{"smtpd_data_restrictions", "smtpd_end_of_data_restrictions"}, restrictions...)

// has reports whether one of the lists has a restriction.
func (s *service) has(lists []string, restriction string) bool {
	return slices.ContainsFunc(lists, func(name string) bool {
		return slices.ContainsFunc(s.list(name), func(r string) bool { return strings.EqualFold(r, restriction) })
	})
}

// authenticatedOnly reports whether only clients that have logged in, or have a certificate, may
// send: a list permits them and rejects everybody else.
func (s *service) authenticatedOnly() bool {
	return s.onlyAfter(func(permitted []string) bool {
		return slices.ContainsFunc(permitted, func(p string) bool { return slices.Contains(loginsAndCertificates, p) })
	})
}

// asksPolicy reports whether a policy service is asked, which may prepend headers.
func (s *service) asksPolicy() bool { return s.has(restrictions, "check_policy_service") }

// demanding are the tables with which the service can demand TLS of single clients, senders or
// recipients, as far as they can be read.
func (s *service) demanding() (all []string) {
	for _, name := range lists {
		list := s.list(name)
		for i, r := range list[:max(0, len(list)-1)] {
			r = strings.ToLower(r)
			if table := list[i+1]; strings.HasPrefix(r, "check_") && strings.HasSuffix(r, "_access") && mentions(table, rejectPlaintext) && !slices.Contains(all, table) {
				all = append(all, table)
			}
		}
	}
	return all
}

// byNetworkOnly reports whether only hosts of mynetworks may send.
func (s *service) byNetworkOnly() bool {
	return s.onlyAfter(func(permitted []string) bool {
		return len(permitted) > 0 && !slices.ContainsFunc(permitted, func(p string) bool { return p != "permit_mynetworks" && p != "permit_inet_interfaces" })
	})
}

// onlyAfter reports whether one of the lists ends with the rejection of everybody, and what it
// permits before that is as asked. A list that may let others in by the recipient, or by a table or
// a policy service that says so, is not such a one.
func (s *service) onlyAfter(permits func(permitted []string) bool) bool {
	for _, name := range restrictions {
		var permitted []string
		open := false
		for _, r := range s.list(name) {
			r = strings.ToLower(r)
			switch {
			case r == "reject" || r == "defer":
				if !open && permits(permitted) {
					return true
				}
			case r == "permit" || r == "permit_auth_destination" || r == "permit_mx_backup",
				strings.HasPrefix(r, "check_") && strings.HasSuffix(r, "_access"), r == "check_policy_service":
				open = open || !strings.HasPrefix(r, "check_sasl_")
			case strings.HasPrefix(r, "permit_"):
				permitted = append(permitted, r)
			}
			if r == "permit" || r == "reject" || r == "defer" {
				break
			}
		}
	}
	return false
}
