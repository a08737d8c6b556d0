package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// format is that of the ledger's file. Whoever changes what its values mean raises it.
const format = "1"

var formatKey = []byte("format")

// errLater is for the file of a later ehlogate, which is left as it is.
var errLater = errors.New("the counts for reports are of a later version of ehlogate")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealed is a value with the CRC-32C of where it lies and what it is: a bit that is wrong in a
// count would be believed, and one in the position would have everything counted twice.
func sealed(bucket, key, b []byte) []byte {
	return binary.BigEndian.AppendUint32(b[:len(b):len(b)], sum(bucket, key, b))
}

func sum(bucket, key, b []byte) uint32 {
	c := crc32.Checksum(bucket, castagnoli)
	c = crc32.Update(c, castagnoli, []byte{'/'})
	c = crc32.Update(c, castagnoli, key)
	c = crc32.Update(c, castagnoli, []byte{'='})
	return crc32.Update(c, castagnoli, b)
}

// unsealed is the value in what sealed made. The error is bolted.ErrDamaged.
func unsealed(bucket, key, b []byte) ([]byte, error) {
	n := len(b) - crc32.Size
	if n < 0 || binary.BigEndian.Uint32(b[n:]) != sum(bucket, key, b[:n]) {
		return nil, fmt.Errorf("%w: the checksum of %s/%s is wrong", bolted.ErrDamaged, bucket, key)
	}
	return b[:n], nil
}

// check reads all that is in a file. The error is bolted.ErrDamaged where something is not what was
// written, or is not a ledger's, and errLater where a later version wrote it.
func check(path string) error {
	var wrong error
	found := ""
	err := bolted.Walk(path, func(bucket, key, value []byte) {
		b, err := unsealed(bucket, key, value)
		if wrong == nil {
			wrong = err
		}
		if string(bucket) == string(metaBucket) && string(key) == string(formatKey) {
			found = string(b)
		}
	})
	switch {
	case err != nil:
		return err
	case found != "" && found != format:
		return fmt.Errorf("%w (format %s)", errLater, found)
	case found == "":
		return fmt.Errorf("%w: it does not say that it has counts in it", bolted.ErrDamaged)
	}
	return wrong
}
