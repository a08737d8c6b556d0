package report

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

var own = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}

// delivered is a message as a mailbox has it: through a mail exchanger, a content filter and a
// mailbox host.
const delivered = `Return-Path: <alice@Sender.example>
Received: from mx.example (mx.example [10.0.0.2])
	by mailbox.example (Postfix) with ESMTPS id 4MAILBOX01
	for <bob@mx.example>; Tue, 24 Nov 2026 13:21:57 +0000 (UTC)
Received: from localhost (localhost [127.0.0.1])
	by mx.example (Postfix) with ESMTP id 4FILTER0001
	for <bob@mx.example>; Tue, 24 Nov 2026 13:21:56 +0000 (UTC)
Received: from [203.0.113.9] (unknown [192.0.2.7])
	(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)
	 key-exchange X25519 server-signature ECDSA (P-256) server-digest SHA256)
	(Client CN "by evil id FORGED", Issuer "x" (not verified))
	by mx.example (Postfix) with ESMTPS id 780D29842A2
	for <bob@mx.example>; Tue, 24 Nov 2026 13:21:55 +0000 (UTC)
Received: from victim.example (victim.example [198.51.100.1])
	by mx.example (Postfix) with ESMTP id 4FORGED0001; Tue, 24 Nov 2026 13:21:54 +0000 (UTC)
From: <alice@sender.example>
Subject: hello

Received: from body.example (body.example [198.51.100.2]) by mx.example with ESMTP id 4BODY
`

// feedback makes a feedback report.
func feedback(fields, original string) string {
	return "From: fbl@isp.example\nContent-Type: multipart/report; report-type=feedback-report;\n\tboundary=\"b\"\n\n" +
		"--b\nContent-Type: text/plain\n\nAn abuse report.\n\n--b\nContent-Type: message/feedback-report\n\n" + fields + "\n\n" +
		"--b\nContent-Type: message/rfc822\n\n" + original + "\n--b--\n"
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, raw, addr, queueID string
		class                    policy.Class
		err                      error
	}{
		{"through the operator's own hosts", delivered, "192.0.2.7", "780D29842A2", policy.None, nil},
		{"with CRLF", strings.ReplaceAll(delivered, "\n", "\r\n"), "192.0.2.7", "780D29842A2", policy.None, nil},
		{"from an mbox", "From alice Tue Nov 24 13:21:57 2026\n" + delivered, "192.0.2.7", "780D29842A2", policy.None, nil},
		{"of Sendmail", "Received: from c.example ([IPv6:2001:db8::7]) by mx.example (8.17.1.9/8.17.1.9) with ESMTP id 4AODLt01; Tue, 24 Nov 2026 13:21:55 GMT\n\n", "2001:db8::7", "4AODLt01", policy.None, nil},
		{"of Exim", "Received: from [192.0.2.7] (helo=c.example) by mx.example with esmtps (TLS1.3) (Exim 4.96) id 1abcDE-000123-4F for bob@mx.example; Tue, 24 Nov 2026 13:21:55 +0000\n\n", "192.0.2.7", "1abcDE-000123-4F", policy.None, nil},
		{"of Exim with a name", "Received: from c.example ([192.0.2.7] helo=x) by mx.example with esmtp (Exim 4.96) id 1abcDE-000123-4F; Tue, 24 Nov 2026 13:21:55 +0000\n\n", "192.0.2.7", "1abcDE-000123-4F", policy.None, nil},
		{"with a broken header line", "rubbish without a colon\n" + delivered, "192.0.2.7", "780D29842A2", policy.None, nil},
		{"of the operator's own", "Received: from x (x [10.0.0.2]) by y with ESMTP id 1; z\n\nReceived: from x (x [192.0.2.7]) by y with ESMTP id 1", "", "", "", ErrNoReceived},
		{"without a header", "hello\n", "", "", "", ErrNoReceived},
		{"of nothing", "", "", "", "", ErrNoReceived},
		{"a feedback report", feedback("Feedback-Type: abuse\nUser-Agent: x\nVersion: 1\nSource-IP: 192.0.2.7", delivered), "192.0.2.7", "780D29842A2", policy.Spam, nil},
		{"a feedback report without the message", feedback("Feedback-Type: fraud\nVersion: 1\nSource-IP: 192.0.2.9\nArrival-Date: Tue, 24 Nov 2026 13:21:55 +0000", "x"), "192.0.2.9", "", policy.Spam, nil},
		{"a feedback report about another message", feedback("Feedback-Type: abuse\nVersion: 1\nSource-IP: 2001:db8::9", delivered), "2001:db8::9", "", policy.Spam, nil},
		{"a feedback report without a source", feedback("Feedback-Type: not-spam\nVersion: 1", delivered), "192.0.2.7", "780D29842A2", policy.Ham, nil},
		{"a feedback report about the operator's own mail", feedback("Feedback-Type: abuse\nVersion: 1\nSource-IP: 10.0.0.2", "x"), "", "", "", ErrNoSource},
		{"a feedback report in base64", strings.Replace(feedback("Feedback-Type: abuse\nSource-IP: 192.0.2.7", "x"), "message/feedback-report\n\nFeedback-Type: abuse\nSource-IP: 192.0.2.7",
			"message/feedback-report\nContent-Transfer-Encoding: base64\n\n"+base64.StdEncoding.EncodeToString([]byte("Feedback-Type: abuse\nSource-IP: 192.0.2.7\n")), 1), "192.0.2.7", "", policy.Spam, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Read([]byte(c.raw), own)
			if !errors.Is(err, c.err) {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			if m.Addr.String() != c.addr || m.QueueID != c.queueID || m.Class() != c.class {
				t.Errorf("%+v", m)
			}
			if want := time.Date(2026, 11, 24, 13, 21, 55, 0, time.UTC); !m.Time.IsZero() && !m.Time.Equal(want) {
				t.Errorf("at %v", m.Time)
			}
		})
	}
	if m, _ := Read([]byte(delivered), own); m.FromDomain != "sender.example" {
		t.Errorf("from %q", m.FromDomain)
	}
}

// A message that came from outside may hold another one, with lines of its sender's making. Where mail
// goes through a filter on this host, too, nobody but its own client is ever accused.
func TestWhatAMessageHoldsIsItsSendersWord(t *testing.T) {
	const inner = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n" +
		"Received: from victim.example (victim.example [203.0.113.98])\n\tby mx.example (Postfix) with ESMTP id 4FAKE; Tue, 24 Nov 2026 13:21:55 +0000\n\nx\n--b--\n"
	const client = "Received: from c.example (c.example [192.0.2.7])\n\tby mx.example (Postfix) with ESMTP id 4REAL; Tue, 24 Nov 2026 13:21:55 +0000\n"
	for _, c := range []struct {
		name, above string
		claimed     bool
	}{
		{"from outside", client, false},
		{"through a filter on this host", "Received: from localhost (localhost [127.0.0.1])\n\tby mx.example (Postfix) with ESMTP id 4BACK; x\n" + client, false},
		{"through a relay inside", "Received: from r (r [10.9.0.1])\n\tby mx.example (Postfix) with ESMTP id 4BACK; x\n" + client, false},
		{"from a script on this host", "Received: by mx.example (Postfix, from userid 33)\n\tid 4PICK; x\n", true},
		{"from a host inside", "Received: from web (web [192.168.7.7])\n\tby mx.example (Postfix) with ESMTP id 4INS; x\n", true},
	} {
		m, err := Read([]byte(c.above+inner), nil)
		if m.Addr.String() == "203.0.113.98" && !m.Claimed || c.claimed != (err == nil) {
			t.Errorf("%s: %+v, %v", c.name, m, err)
		}
	}
}

func TestEach(t *testing.T) {
	mbox := "From a Tue Nov 24 13:21:57 2026\nSubject: one\n\nFrom here on\n\nFrom b Tue Nov 24 13:21:58 2026\nSubject: two\n\n>From quoted\n\n"
	for _, c := range []struct {
		name, raw string
		want      []string
	}{
		{"an mbox", mbox, []string{"one", "two"}},
		{"one message", "Subject: one\n\nFrom here on\n\nFrom there\n", []string{"one"}},
		{"nothing", "", nil},
		{"a long line", "From a\nSubject: one\n\n" + strings.Repeat("From ", 50_000) + "\n\nFrom b Tue Nov 24 13:21:58 2026\nSubject: two\n", []string{"one", "two"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			err := Each(strings.NewReader(c.raw), func(raw []byte) error {
				h, _ := split(raw)
				got = append(got, h.first("Subject"))
				return nil
			})
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%q, %v, want %q", got, err, c.want)
			}
		})
	}
	if err := Each(strings.NewReader(mbox), func([]byte) error { return errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("an error of the caller is lost: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	deep := "x"
	for i := range 1000 {
		deep = fmt.Sprintf("Content-Type: multipart/report; report-type=feedback-report; boundary=b%d\n\n--b%d\nContent-Type: message/rfc822\n\n%s", i, i, deep)
	}
	for _, s := range []string{delivered, feedback("Feedback-Type: abuse\nSource-IP: 192.0.2.7", delivered), deep, "Received: from \x00 ([::ffff:192.0.2.7]) by", strings.Repeat("Received: ", 1000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Read(raw, own)
		if err == nil && (!m.Addr.IsValid() || m.Addr.Is4In6() || m.Addr.Zone() != "" || owned(m.Addr, own) || len(m.QueueID) > 64 || len(m.Feedback) > 32) {
			t.Fatalf("%+v", m)
		}
		n := 0
		Each(bytes.NewReader(raw), func(part []byte) error { n += len(part); return nil })
		if n > len(raw) {
			t.Fatalf("%d bytes out of %d", n, len(raw))
		}
	})
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{
		"Maildir/cur/1.mx:2,S", "Maildir/new/2.mx", "Maildir/tmp/3.mx", "Maildir/cur/4.mx:2,ST", "Maildir/.Junk/cur/5.mx:2,S", "Maildir/.Junk/new/6.mx",
		"Maildir/dovecot-uidlist", "Maildir/cur/dovecot.index.cache", "Maildir/maildirfolder",
		"plain/a.eml", "plain/sub/b.eml", "plain/.hidden/c.eml", "plain/Inbox.msf", "plain/mail.lock", "plain/backup~",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), []byte(delivered), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for of, want := range map[string]string{"Maildir": "cur/1.mx:2,S new/2.mx", "Maildir/.Junk": "cur/5.mx:2,S new/6.mx", "plain": "a.eml sub/b.eml"} {
		files, err := Files(filepath.Join(dir, of))
		for i := range files {
			files[i], _ = filepath.Rel(filepath.Join(dir, of), files[i])
		}
		if got := strings.Join(files, " "); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", of, got, err, want)
		}
	}
	if _, err := Files(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a directory that is not there has files")
	}
}

func TestCompressedMailboxes(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fmt.Fprintf(z, "From a@b  Tue Nov 24 13:21:57 2026\n%s\nFrom a@b  Tue Nov 24 13:21:58 2026\n%s", delivered, delivered)
	z.Close()
	n := 0
	whole := func([]byte) error { n++; return nil }
	if err := Each(bytes.NewReader(b.Bytes()), whole); err != nil || n != 2 {
		t.Errorf("%d messages, %v", n, err)
	}
	if err := Each(bytes.NewReader(b.Bytes()[:b.Len()/2]), whole); err == nil {
		t.Error("half of a compressed mailbox is read without a word")
	}
}

// A mailbox of mboxcl2 quotes nothing: where a body ends is in its Content-Length, if that is right.
func TestContentLengths(t *testing.T) {
	const from = "From a@b  Tue Nov 24 13:21:57 2026\n"
	inner := from + "Subject: fake\n\nx\n\n"
	for _, c := range []struct {
		name   string
		length int
		want   int
	}{
		{"right", len(inner), 2}, {"one too many", len(inner) + 1, 2}, {"a few too many, for other line ends", len(inner) + 12, 2}, {"a line too many", len(inner) + 40, 3},
		{"far too many", 1 << 20, 3}, {"far too few", 3, 3}, {"negative", -5, 3},
	} {
		n := 0
		mbox := fmt.Sprintf("%sContent-Length: %d\nSubject: one\n\n%s%sSubject: two\n\nx\n", from, c.length, inner, from)
		if err := Each(strings.NewReader(mbox), func([]byte) error { n++; return nil }); err != nil || n != c.want {
			t.Errorf("%s: %d messages, %v, want %d", c.name, n, err, c.want)
		}
	}
}
