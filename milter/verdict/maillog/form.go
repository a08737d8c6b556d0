package maillog

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

// parts are the parts of a line.
type parts struct {
	// head is what stands before the program: the time stamp, the host, and what containers and
	// collectors put there. outer is the head of a line in whose text this one stood.
	head, outer []byte
	// tag is the program, such as postfix/smtpd, process the tag with its host and process id: several
	// hosts can write into one log.
	tag, process []byte
	text         []byte
}

// maxHead bounds what stands before a program's name, in bytes.
const maxHead = 512

// nested is how many lines may stand in one another: a container's in its engine's.
const nested = 3

// split parts a line as syslogd, postlogd, a container engine or a log collector writes it. Nobody
// outside of the host has a say in what stands before the program's name.
func split(line []byte) (p parts, ok bool) {
	if len(line) > 0 && line[0] == '{' {
		line = unwrap(line)
	}
	for range nested {
		if p, ok := splitProtocol(line); ok {
			if !isContainer(p.tag) {
				return p, true
			}
			p.outer, line = p.head, p.text
			continue
		}
		head, _, ok := bytes.Cut(line[:min(len(line), maxHead)], []byte("]: "))
		if !ok {
			return p, false
		}
		text := line[len(head)+len("]: "):]
		pid := bytes.LastIndexByte(head, '[')
		if pid < 0 {
			return p, false
		}
		i := bytes.LastIndexByte(head[:pid], ' ') + 1
		host := bytes.LastIndexByte(head[:max(0, i-1)], ' ') + 1
		p.head, p.tag, p.process, p.text = head[:i], head[i:pid], head[host:], text
		switch {
		case bytes.Contains(p.head, []byte(": ")):
			// Another program's, without a process id, which quotes something like ours.
			return p, false
		case !isContainer(p.tag):
			p.text = unfold(p.text)
			return p, true
		}
		p.outer, line = p.head, p.text
	}
	return p, false
}

// isPrefix reports whether what stands before a program's name is what a syslog daemon, a container
// engine or a collector puts there: time stamps, the host, a level or priority. A program in another
// container can write all that into its own line, but not without more words before it.
func isPrefix(head []byte) bool {
	s := string(trimPriority(head))
	if _, after, ok := strings.Cut(s, " | "); ok && strings.IndexByte(strings.TrimSpace(s[:len(s)-len(after)-3]), ' ') < 0 {
		s = after
	}
	s = strings.TrimLeft(s, "| ")
	for range 3 {
		for range 2 {
			// journalctl(1) puts the day of the week before a stamp, and the zone behind it.
			if _, _, rest, ok := parseStamp(s, time.Time{}, time.UTC); ok {
				s = rest
			} else if word, rest, _ := strings.Cut(s, " "); len(word) <= 4 && rest != "" {
				if _, _, after, ok := parseStamp(rest, time.Time{}, time.UTC); ok {
					s = after
				}
			}
		}
		s = strings.TrimPrefix(strings.TrimPrefix(s, "stdout F "), "stderr F ")
	}
	return len(strings.Fields(s)) <= 3 && !strings.ContainsAny(s, `"'()=`)
}

// splitProtocol parts a line of RFC 5424, "<22>1 STAMP HOST PROGRAM PID MSGID DATA TEXT", where PRI
// and version may be missing.
func splitProtocol(line []byte) (p parts, ok bool) {
	rest := bytes.TrimPrefix(trimPriority(line), []byte("1 "))
	if len(rest) < 20 || rest[0] < '0' || rest[0] > '9' {
		return p, false
	}
	var field [6][]byte
	start := len(line) - len(rest)
	for i := range field {
		var ok bool
		if field[i], rest, ok = bytes.Cut(rest, []byte(" ")); !ok || len(field[i]) > 255 {
			return p, false
		}
		if i == 2 && bytes.IndexByte(field[i], '[') >= 0 || i == 3 && !digits(field[i]) && string(field[i]) != "-" {
			return p, false
		}
	}
	if len(field[5]) > 0 && field[5][0] == '[' {
		// Structured data, RFC 5424 section 6.3, ends with a bracket before a blank.
		data, text, ok := bytes.Cut(rest, []byte("] "))
		if !bytes.HasSuffix(field[5], []byte("]")) {
			if !ok || len(data) > maxHead {
				return p, false
			}
			rest = text
		}
	} else if string(field[5]) != "-" {
		return p, false
	}
	p.head = line[start : start+len(field[0])+1+len(field[1])]
	p.tag = field[2]
	p.process = line[start+len(field[0])+1:][:len(field[1])+1+len(field[2])+1+len(field[3])]
	p.text = unfold(bytes.TrimPrefix(rest, []byte("\ufeff")))
	return p, true
}

func digits(s []byte) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) > 0
}

// trimPriority takes off a PRI, RFC 3164 section 4.1.1.
func trimPriority(s []byte) []byte {
	if i := bytes.IndexByte(s[:min(len(s), 6)], '>'); i > 1 && s[0] == '<' && digits(s[1:i]) {
		return s[i+1:]
	}
	return s
}

// isContainer reports a container engine, whose text is a line of a container's.
func isContainer(tag []byte) bool {
	for _, name := range []string{"docker", "podman", "conmon", "containerd", "nerdctl"} {
		if bytes.HasPrefix(tag, []byte(name)) {
			return true
		}
	}
	// The tag of Docker's driver for syslog is the container's id.
	if len(tag) != 12 && len(tag) != 64 {
		return false
	}
	for _, c := range tag {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// unwrap takes a line out of the JSON of Docker's driver json-file.
func unwrap(line []byte) []byte {
	var v struct {
		Log  string `json:"log"`
		Time string `json:"time"`
	}
	if json.Unmarshal(line, &v) != nil || v.Log == "" {
		return line
	}
	return bytes.TrimRight([]byte(v.Time+" "+v.Log), "\r\n")
}

// unfold takes off what a syslogd puts before a text, or around it: the message id of Solaris, and
// how often a line was repeated.
func unfold(text []byte) []byte {
	if rest, ok := bytes.CutPrefix(text, []byte("[ID ")); ok {
		if _, after, ok := bytes.Cut(rest[:min(len(rest), 64)], []byte("] ")); ok {
			text = rest[len(rest[:min(len(rest), 64)])-len(after):]
		}
	}
	if rest, ok := bytes.CutPrefix(text, []byte("message repeated ")); ok {
		if n, inner, ok := bytes.Cut(rest, []byte(" times: [ ")); ok && digits(n) {
			text = bytes.TrimSuffix(inner, []byte("]"))
		}
	}
	return text
}
