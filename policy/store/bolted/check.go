package bolted

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"github.com/ehlogate/ehlogate/policy/regular"
)

// The layout of a bbolt file, https://pkg.go.dev/go.etcd.io/bbolt: two meta pages and then others,
// each with a head of 16 bytes, in the byte order of the machine.
const (
	boltMagic    = 0xED0CDAED
	pageHead     = 16
	elementSize  = 16
	metaSize     = 64
	branchFlag   = 0x01
	leafFlag     = 0x02
	bucketFlag   = 0x01
	bucketHead   = 16
	usualPage    = 4096
	noFreelist   = ^uint64(0)
	mostOverflow = 1 << 20
)

var order = binary.NativeEndian

// Heads is what the two meta pages of a file say.
type Heads struct {
	// Sound counts those whose checksum is right, of which one is enough to open the file: it has
	// the state before the last change. Synced says that one of them has a list of free pages.
	Sound  int
	Synced bool
	// PageSize is that of the file, or the usual one.
	PageSize int

	root, pages, txid uint64
}

// ReadHeads reads the meta pages of a file.
func ReadHeads(f io.ReaderAt) (h Heads) {
	h.PageSize = usualPage
	for _, size := range []int{usualPage, os.Getpagesize(), 8192, 16384, 65536} {
		for _, at := range []int64{0, int64(size)} {
			page := make([]byte, pageHead+metaSize)
			if _, err := f.ReadAt(page, at); err != nil {
				continue
			}
			meta := page[pageHead:]
			sum := fnv.New64a()
			sum.Write(meta[:56])
			if order.Uint32(meta) != boltMagic || order.Uint32(meta[8:]) != uint32(size) || order.Uint64(meta[56:]) != sum.Sum64() {
				continue
			}
			h.Sound++
			h.PageSize = size
			h.Synced = h.Synced || order.Uint64(meta[32:]) != noFreelist
			if txid := order.Uint64(meta[48:]); txid >= h.txid {
				h.txid, h.root, h.pages = txid, order.Uint64(meta[16:]), order.Uint64(meta[40:])
			}
		}
		if h.Sound > 0 {
			break
		}
	}
	return h
}

// Check reads all pages of a file that are in use, and returns ErrDamaged if any of them is not
// what it should be. bbolt itself looks through them in a goroutine of its own when it opens a file
// for writing, and there a damaged one ends the process.
func Check(path string) error { return CheckBut(path, nil) }

// CheckBut is Check of all but what is in a bucket, which may be large; nil for none.
func CheckBut(path string, bucket []byte) error {
	return walk(path, bucket, func(_, _, _ []byte) {})
}

// Walk is Check that shows what it finds on the way, in the order of the keys: the name of a bucket
// with a key and value in it. They may be kept. It goes around what is damaged, and returns what
// was the first.
func Walk(path string, show func(bucket, key, value []byte)) error {
	return walk(path, nil, show)
}

func walk(path string, but []byte, show func(bucket, key, value []byte)) error {
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := ReadHeads(f)
	if h.Sound == 0 {
		return fmt.Errorf("%w: its head is not one of bbolt", ErrDamaged)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// No page lies behind the end of the file, whatever its head says.
	h.pages = min(h.pages, uint64(info.Size())/uint64(h.PageSize))
	c := &checker{file: f, heads: h, seen: make([]bool, h.pages), but: but, show: show}
	if err := c.tree(h.root, nil, nil); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

type checker struct {
	file  io.ReaderAt
	heads Heads
	seen  []bool
	// bucket is the one that is walked through, but the one that is left out.
	bucket, but []byte
	show        func(bucket, key, value []byte)
}

// tree checks a page and what is below it, whose keys are from one key on and before another.
func (c *checker) tree(id uint64, from, before []byte) error {
	page, err := c.read(id)
	if err != nil {
		return err
	}
	return c.elements(fmt.Sprint("page ", id), page, from, before)
}

// read reads a page with those that continue it.
func (c *checker) read(id uint64) ([]byte, error) {
	if id < 2 || id >= c.heads.pages {
		return nil, fmt.Errorf("page %d of %d", id, c.heads.pages)
	}
	size := int64(c.heads.PageSize)
	page := make([]byte, size)
	if _, err := c.file.ReadAt(page, int64(id)*size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	more := uint64(order.Uint32(page[12:]))
	if got := order.Uint64(page); got != id || more > mostOverflow || id+more >= c.heads.pages {
		return nil, fmt.Errorf("page %d says it is %d, and %d more", id, got, more)
	}
	for i := id; i <= id+more; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	if more == 0 {
		return page, nil
	}
	page = append(page, make([]byte, int64(more)*size)...)
	if _, err := c.file.ReadAt(page[size:], int64(id+1)*size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return page, nil
}

// elements checks the elements of a page, or of a bucket that is in its parent's.
func (c *checker) elements(what string, page, from, before []byte) error {
	if len(page) < pageHead {
		return fmt.Errorf("%s: %d bytes", what, len(page))
	}
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	if flags != branchFlag && flags != leafFlag || pageHead+count*elementSize > len(page) || flags == branchFlag && count == 0 {
		return fmt.Errorf("%s: kind %#x with %d elements", what, flags, count)
	}
	type child struct {
		key   []byte
		id    uint64
		value []byte
		// bucket says that the value is a bucket.
		bucket bool
	}
	all := make([]child, count)
	for i := range all {
		at := pageHead + i*elementSize
		e := page[at:]
		var pos, ksize, vsize int
		if flags == branchFlag {
			pos, ksize = int(order.Uint32(e)), int(order.Uint32(e[4:]))
			all[i].id = order.Uint64(e[8:])
		} else {
			pos, ksize, vsize = int(order.Uint32(e[4:])), int(order.Uint32(e[8:])), int(order.Uint32(e[12:]))
			if kind := order.Uint32(e); kind > bucketFlag {
				return fmt.Errorf("%s: element %d is of kind %d", what, i, kind)
			}
			all[i].bucket = order.Uint32(e) == bucketFlag
		}
		if begin := at + pos; pos < elementSize || begin+ksize+vsize > len(page) {
			return fmt.Errorf("%s: element %d is outside", what, i)
		} else {
			all[i].key, all[i].value = page[begin:begin+ksize], page[begin+ksize:begin+ksize+vsize]
		}
		if i > 0 && bytes.Compare(all[i-1].key, all[i].key) >= 0 || i == 0 && from != nil && bytes.Compare(all[0].key, from) < 0 || before != nil && bytes.Compare(all[i].key, before) >= 0 {
			return fmt.Errorf("%s: key %d is out of order", what, i)
		}
	}
	var first error
	for i, e := range all {
		var err error
		switch {
		case flags == branchFlag:
			next := before
			if i+1 < len(all) {
				next = all[i+1].key
			}
			err = c.tree(e.id, e.key, next)
		case e.bucket && c.but != nil && bytes.Equal(e.key, c.but):
		case e.bucket:
			err = c.into(e.key, e.value)
		default:
			c.show(c.bucket, e.key, e.value)
		}
		first = cmp.Or(first, err)
	}
	return first
}

// into checks a bucket: its root page and its sequence, and all of it where it is small.
func (c *checker) into(name, value []byte) error {
	defer func(outer []byte) { c.bucket = outer }(c.bucket)
	c.bucket = name
	if len(value) < bucketHead {
		return errors.New("a bucket without a head")
	}
	if root := order.Uint64(value); root != 0 {
		return c.tree(root, nil, nil)
	}
	return c.elements("a bucket", value[bucketHead:], nil, nil)
}

// Leaves are the keys and values of a page, if it looks like a leaf, whatever leads to it.
func Leaves(page []byte) func(yield func(k, v []byte) bool) {
	return func(yield func(k, v []byte) bool) {
		if len(page) < pageHead || order.Uint16(page[8:])&leafFlag == 0 {
			return
		}
		for i := range int(order.Uint16(page[10:])) {
			at := pageHead + i*elementSize
			if at+elementSize > len(page) {
				return
			}
			pos, ksize, vsize := int(order.Uint32(page[at+4:])), int(order.Uint32(page[at+8:])), int(order.Uint32(page[at+12:]))
			from, to := at+pos, at+pos+ksize+vsize
			if ksize <= 0 || to > len(page) || from < pageHead {
				continue
			}
			if !yield(page[from:from+ksize], page[from+ksize:to]) {
				return
			}
		}
	}
}
