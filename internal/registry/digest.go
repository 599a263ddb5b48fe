package registry

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"
)

// canonical is the algorithm of digests that we choose ourselves.
const canonical = "sha256"

// digest names content by its hash. The zero digest names nothing.
type digest struct {
	algorithm string
	hex       string
}

func (d digest) String() string { return d.algorithm + ":" + d.hex }

// newHash returns nil for an algorithm that we do not know.
func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case canonical:
		return sha256.New()
	case "sha512":
		return sha512.New()
	default:
		return nil
	}
}

// parseDigest accepts a digest of an algorithm that we know, in lower case. Error: DIGEST_INVALID.
func parseDigest(s string) (digest, error) {
	algorithm, digits, _ := strings.Cut(s, ":")
	h := newHash(algorithm)
	if h == nil || len(digits) != 2*h.Size() || strings.Trim(digits, "0123456789abcdef") != "" {
		return digest{}, errorf(codeDigestInvalid, "%q is not a digest such as sha256: followed by 64 hexadecimal digits in lower case", clip(s))
	}
	return digest{algorithm, digits}, nil
}

func digestOf(algorithm string, content []byte) digest {
	h := newHash(algorithm)
	h.Write(content)
	return sumOf(algorithm, h)
}

func sumOf(algorithm string, h hash.Hash) digest {
	return digest{algorithm, hex.EncodeToString(h.Sum(nil))}
}
