package verdict

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// EximTLS reads what Exim says of a session's TLS, "TLS1.3:TLS_AES_256_GCM_SHA384:256" where it is
// built with OpenSSL, or "TLS1.3:ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM:256" with GnuTLS;
// nil where it is neither.
func EximTLS(s string) *policy.TLS {
	version, rest, ok := strings.Cut(s, ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 {
		return nil
	}
	bits, err := strconv.Atoi(rest[i+1:])
	if err != nil {
		return nil
	}
	return &policy.TLS{Version: tlsVersion(version), Cipher: Clip(rest[:i]), Bits: bits}
}

// tlsVersion is a version of TLS as Postfix writes it: TLSv1.3 of Exim's TLS1.3.
func tlsVersion(s string) string {
	if number, ok := strings.CutPrefix(s, "TLS1"); ok {
		s = "TLSv1" + number
	}
	return Clip(s)
}

// inClear is what a post says of a session without TLS.
const inClear = "none"

// version is a version of TLS, or of what was before it.
var version = regexp.MustCompile(`^(TLSv1(\.[0-3])?|SSLv[23])$`)

// transport reads what a post says of a session's TLS: its version, or what Exim has of it
// ($tls_in_cipher), or none. It is nil, and known false, where that is none of these.
func transport(s string) (used *policy.TLS, known bool) {
	if s = strings.TrimSpace(s); strings.EqualFold(s, inClear) {
		return nil, true
	}
	if used = EximTLS(s); used == nil {
		used = &policy.TLS{Version: tlsVersion(s)}
	}
	if !version.MatchString(used.Version) || used.Bits < 0 {
		return nil, false
	}
	return used, true
}
