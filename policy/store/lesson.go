package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/regular"
)

// appendLesson appends a record.
func appendLesson(b []byte, k policy.Keys, l policy.Lesson) []byte {
	start := len(b)
	b = append(b, make([]byte, recordHead)...)
	b = binary.LittleEndian.AppendUint64(b, uint64(l.At.UnixMilli()))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(l.Spam))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(l.Ham))
	b = binary.LittleEndian.AppendUint32(b, k.ASN)
	b = append(appendPrefix(appendPrefix(b, k.Host), k.Network), l.Line...)
	record := b[start+recordHead:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(record)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(record, castagnoli))
	return b
}

// appendPrefix appends a prefix with its length in bytes.
func appendPrefix(b []byte, n netip.Prefix) []byte {
	at := len(b)
	b, _ = n.AppendBinary(append(b, 0))
	b[at] = byte(len(b) - at - 1)
	return b
}

// readLesson reads what appendLesson wrote, without its head.
func readLesson(b []byte) (k policy.Keys, l policy.Lesson, err error) {
	const fixed = 8 + 8 + 8 + 4
	if len(b) < fixed {
		return k, l, io.ErrUnexpectedEOF
	}
	l.At = time.UnixMilli(int64(binary.LittleEndian.Uint64(b)))
	l.Spam, l.Ham = math.Float64frombits(binary.LittleEndian.Uint64(b[8:])), math.Float64frombits(binary.LittleEndian.Uint64(b[16:]))
	k.ASN = binary.LittleEndian.Uint32(b[24:])
	b = b[fixed:]
	for _, n := range []*netip.Prefix{&k.Host, &k.Network} {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return k, l, io.ErrUnexpectedEOF
		}
		if err := n.UnmarshalBinary(b[1 : 1+b[0]]); err != nil {
			return k, l, err
		}
		b = b[1+b[0]:]
	}
	if !k.Host.IsValid() || !k.Network.IsValid() {
		return k, l, errors.New("not a host in a network")
	}
	l.Line = b
	return k, l, nil
}

// storeIn is the name of the store in the first line of a part, "" where that is not one of ours.
func storeIn(head string) string {
	id, ok := strings.CutPrefix(head, journalFormat+" ")
	if !ok {
		return ""
	}
	return id
}

// mostPart bounds how much of a part is read: it is ended at a thirtieth of that.
const mostPart = 1 << 30

// eachLesson reads a part, and shows its lessons; those between others that are damaged are left
// out, and are an error. It returns how many bytes are left at the end: of the last record, if the
// power went while it was written. A part of another store is not read.
func (p *storedPart) eachLesson(store string, show func(policy.Keys, policy.Lesson)) (left int, err error) {
	b, err := regular.ReadFile(p.path, mostPart)
	if err != nil {
		return 0, err
	}
	head, records, _ := bytes.Cut(b, []byte("\n"))
	switch id := storeIn(string(head)); {
	case id == "":
		return len(b), fmt.Errorf("it does not begin with %q", journalFormat)
	case id != store && store != "":
		return len(b), errors.New("it is of another store")
	}
	// damaged are records behind which none was sound yet, and rest is where they begin.
	damaged, lost, rest := 0, 0, records
	for len(records) >= recordHead {
		length, sum := int(binary.LittleEndian.Uint32(records)), binary.LittleEndian.Uint32(records[4:])
		if length == 0 || length > mostRecord || length > len(records)-recordHead {
			break
		}
		record := records[recordHead : recordHead+length]
		records = records[recordHead+length:]
		if crc32.Checksum(record, castagnoli) != sum {
			damaged++
			continue
		}
		k, l, err := readLesson(record)
		if err != nil {
			return len(rest), err
		}
		show(k, l)
		lost += damaged
		damaged, rest = 0, records
	}
	if lost > 0 {
		err = fmt.Errorf("%d of its records are damaged", lost)
	}
	return len(rest), err
}
