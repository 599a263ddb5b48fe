// Package sigv4 answers one question: was this request signed with this secret? It verifies AWS Signature Version 4 as
// sent in the Authorization header, and does nothing else: it reads no body, knows no keys and asks no clock.
//
// A server calls, in this order,
//
//	sig, err := sigv4.Parse(r)                // what does the request claim? cheap, nothing is trusted yet
//	err = sig.Check("lightsail", time.Now())  // meant for this service, and now?
//	secret := …                               // of sig.AccessKeyID
//	hash := sha256.Sum256(body)               // the body, read with a limit
//	err = sig.Verify(r, hash, secret)
//
// The canonical request is built from the client's own SignedHeaders, because clients differ in what they sign: the
// AWS SDK for Go signs content-length, botocore does not. Signing the request anew with a client library and comparing
// would therefore refuse honest clients.
//
// Not supported, and refused: the presigned form (signature in the query string; Lightsail has no use for it),
// signatures over chunked or unsigned payloads, and SigV4a. A request that is replayed within [MaxSkew] is accepted,
// as it is by AWS.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"net/http"
	"time"
)

const (
	// Algorithm is the only accepted signing algorithm.
	Algorithm = "AWS4-HMAC-SHA256"
	// MaxSkew is how far the request's date may be from the server's, in both directions.
	MaxSkew = 15 * time.Minute

	// dateTime is the form of X-Amz-Date, date the form of the day in the scope.
	dateTime = "20060102T150405Z"
	date     = "20060102"
	// terminator ends every credential scope.
	terminator = "aws4_request"
	// maxAuthorization bounds the Authorization header in bytes. Real ones have about 300.
	maxAuthorization = 8 << 10
)

// Reason says what kind of thing is wrong with a signature.
type Reason int

// The reasons for which a request is refused.
const (
	ReasonMissing    Reason = iota + 1 // the request is not signed at all
	ReasonIncomplete                   // the signature cannot be read, or lacks a part
	ReasonScope                        // signed for another service or day
	ReasonTime                         // too old, or from the future
	ReasonHeaders                      // a header that must be signed is not, or a signed one did not arrive
	ReasonMismatch                     // signed with another secret, or changed on the way
)

// Error says why a request is refused. Message is meant for the client, in AWS's wording where that is known; it holds
// no part of a secret or of the right signature.
type Error struct {
	Reason  Reason
	Message string
}

func (e *Error) Error() string { return e.Message }

// Signature is what a request claims about itself.
type Signature struct {
	AccessKeyID string
	Time        time.Time // of signing, UTC, whole seconds
	Region      string    // lower-case letters, digits and dashes
	Service     string    // "lightsail"
	// SignedHeaders are the lower-case names of the headers that the signature covers, in the client's order.
	SignedHeaders []string

	day       string // of the scope, equal to Time's
	signature []byte
}

// Check reports whether the request was signed for service and within MaxSkew of now.
// Errors: ReasonScope, ReasonTime.
func (s *Signature) Check(service string, now time.Time) error {
	if s.Service != service {
		return errorf(ReasonScope, "Credential should be scoped to correct service: '%s'.", service)
	}
	now = now.UTC()
	stamp := s.Time.Format(dateTime)
	if limit := now.Add(-MaxSkew); s.Time.Before(limit.Truncate(time.Second)) {
		return errorf(ReasonTime, "Signature expired: %s is now earlier than %s (%s - 15 min.)", stamp, limit.Format(dateTime), now.Format(dateTime))
	}
	if limit := now.Add(MaxSkew); s.Time.After(limit) {
		return errorf(ReasonTime, "Signature not yet current: %s is still later than %s (%s + 15 min.)", stamp, limit.Format(dateTime), now.Format(dateTime))
	}
	return nil
}

// Verify reports whether r, whose body has the SHA-256 sum bodySum, was signed with secret. The comparison takes the
// same time wherever the signatures differ. Errors: ReasonHeaders, ReasonIncomplete (query string), ReasonMismatch.
func (s *Signature) Verify(r *http.Request, bodySum [sha256.Size]byte, secret string) error {
	canonical, err := s.canonicalRequest(r, bodySum)
	if err != nil {
		return err
	}
	want := mac(s.signingKey(secret), s.stringToSign(canonical))
	if !hmac.Equal(want, s.signature) {
		return errorf(ReasonMismatch, "The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return nil
}

func (s *Signature) scope() string {
	return s.day + "/" + s.Region + "/" + s.Service + "/" + terminator
}

func (s *Signature) signingKey(secret string) []byte {
	key := []byte("AWS4" + secret)
	for _, part := range [...]string{s.day, s.Region, s.Service, terminator} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
