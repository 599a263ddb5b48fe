package sigv4_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"pgregory.net/rapid"

	"github.com/trysail/trysail/internal/sigv4"
)

const (
	keyID  = "AKIDEXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

var signedAt = time.Date(2026, 11, 21, 10, 20, 30, 0, time.UTC)

// verify does what a server does.
func verify(r *http.Request, body []byte, secret string, now time.Time) (*sigv4.Signature, error) {
	sig, err := sigv4.Parse(r)
	if err != nil {
		return nil, err
	}
	if err := sig.Check("lightsail", now); err != nil {
		return nil, err
	}
	return sig, sig.Verify(r, sha256.Sum256(body), secret)
}

func wantReason(t *testing.T, err error, want sigv4.Reason, text string) {
	t.Helper()
	e, ok := errors.AsType[*sigv4.Error](err)
	if !ok || e.Reason != want || !strings.Contains(e.Message, text) {
		t.Errorf("got error %v (%+v), want reason %d with %q", err, e, want, text)
	}
}

// newRequest is a Lightsail call as the AWS CLI makes it, not signed yet.
func newRequest(body string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, "http://trysail.test:4500/", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "Lightsail_20161128.GetContainerServices")
	return r
}

func sign(r *http.Request, body []byte, region string, at time.Time) {
	sum := sha256.Sum256(body)
	credentials := aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(r.Context(), credentials, r, hex.EncodeToString(sum[:]), "lightsail", region, at); err != nil {
		panic(err)
	}
}

// received sends r through the wire format, so that it looks to the verifier as it does in a server.
func received(r *http.Request) *http.Request {
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		panic(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		panic(err)
	}
	return got
}

func signedRequest(body string) *http.Request {
	r := newRequest(body)
	sign(r, []byte(body), "us-east-1", signedAt)
	return received(r)
}

// TestVerify_PublishedVector is "get-vanilla" of AWS's signature test suite.
func TestVerify_PublishedVector(t *testing.T) {
	r, _ := http.NewRequest(http.MethodGet, "http://example.amazonaws.com/", nil)
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "+
		"SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
	sig, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := sig.Verify(r, sha256.Sum256(nil), secret); err != nil {
		t.Error(err)
	}
	if err := sig.Verify(r, sha256.Sum256(nil), secret+"x"); err == nil {
		t.Error("another secret is accepted")
	}
}

// TestVerify_AgreesWithSDKSigner makes random requests, signs them with the SDK and sends them through the wire
// format. All must be accepted, and none once anything that was signed has changed.
func TestVerify_AgreesWithSDKSigner(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("abzAZ09 -_.~/+%&=;:,*'()!@#$?äß漢")), 0, 12, -1)
	headerText := rapid.StringOfN(rapid.RuneFrom([]rune(`azAZ09    -_.~/+%&=;:,"`)), 0, 20, -1)
	rapid.Check(t, func(t *rapid.T) {
		method := rapid.SampledFrom([]string{"POST", "GET", "PUT", "DELETE"}).Draw(t, "method")
		body := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "body")
		host := rapid.SampledFrom([]string{"127.0.0.1:4500", "lightsail.example.com", "[::1]:80", "localhost:80"}).Draw(t, "host")
		region := rapid.SampledFrom([]string{"us-east-1", "eu-central-1", "local"}).Draw(t, "region")

		r, err := http.NewRequest(method, "http://"+host, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Path = "/" + strings.Join(rapid.SliceOfN(text, 0, 3).Draw(t, "path"), "/")
		query := r.URL.Query()
		for _, name := range rapid.SliceOfN(text, 0, 5).Draw(t, "query") {
			query.Add(name, text.Draw(t, "value"))
		}
		r.URL.RawQuery = query.Encode()
		for i, v := range rapid.SliceOfN(headerText, 0, 5).Draw(t, "headers") {
			r.Header.Add(fmt.Sprintf("X-Random-%d", i%3), v) // some names twice
		}
		r.Header.Set("X-Amz-Target", "Lightsail_20161128.GetContainerServices")
		sign(r, body, region, signedAt)
		if pairs := strings.Split(r.URL.RawQuery, "&"); len(pairs) > 1 {
			// The order and the form of escaping do not change what a query says.
			r.URL.RawQuery = strings.ReplaceAll(strings.Join(rapid.Permutation(pairs).Draw(t, "order"), "&"), "%20", "+")
		}

		got := received(r)
		sig, err := verify(got, body, secret, signedAt)
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if sig.AccessKeyID != keyID || sig.Region != region || !sig.Time.Equal(signedAt) {
			t.Fatalf("got %+v", sig)
		}
		if _, err := verify(got, append(body, ' '), secret, signedAt); err == nil {
			t.Fatal("another body is accepted")
		}
		if _, err := verify(got, body, secret+"x", signedAt); err == nil {
			t.Fatal("another secret is accepted")
		}
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 0:
			got.Host += "x"
		case 1:
			got.Header.Set("X-Amz-Target", "Lightsail_20161128.DeleteContainerService")
		case 2:
			got.URL.Path += "x"
			got.URL.RawPath = ""
		case 3:
			got.URL.RawQuery += "&zz=1"
		case 4:
			got.Method += "X"
		}
		if _, err := verify(got, body, secret, signedAt); err == nil {
			t.Fatal("a changed request is accepted")
		}
	})
}

func TestVerify_SessionTokenAndUnsignedHeaders(t *testing.T) {
	r := newRequest("{}")
	r.Header.Set("X-Amz-Security-Token", "anything") // left over in somebody's environment; signed, and of no meaning
	sign(r, []byte("{}"), "us-east-1", signedAt)
	got := received(r)
	got.Header.Set("X-Forwarded-For", "10.0.0.1") // a proxy's
	if _, err := verify(got, []byte("{}"), secret, signedAt); err != nil {
		t.Error(err)
	}
}

func TestVerify_ClientsDate(t *testing.T) {
	// The SDKs always send X-Amz-Date; Date is for clients that cannot.
	r, _ := http.NewRequest(http.MethodGet, "http://example.amazonaws.com/", nil)
	r.Header.Set("Date", "Sun, 30 Aug 2015 12:36:00 GMT")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request,"+
		"SignedHeaders=host,Signature="+strings.Repeat("0", 64))
	sig, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC); !sig.Time.Equal(want) {
		t.Errorf("got %v, want %v", sig.Time, want)
	}
	r.Header.Set("X-Amz-Date", "20150830T123601Z")
	if sig, err = sigv4.Parse(r); err != nil || sig.Time.Second() != 1 {
		t.Errorf("X-Amz-Date does not win over Date: %v, %v", sig, err)
	}
}

func TestVerify_SignedHeaderThatDidNotArrive(t *testing.T) {
	r := newRequest("{}")
	r.Header.Set("X-Extra", "1")
	sign(r, []byte("{}"), "us-east-1", signedAt)
	got := received(r)
	got.Header.Del("X-Extra")
	_, err := verify(got, []byte("{}"), secret, signedAt)
	wantReason(t, err, sigv4.ReasonHeaders, "x-extra")
}

func TestVerify_ContentLengthTakenOutOfTheHeader(t *testing.T) {
	got := signedRequest(`{"a":1}`)
	got.Header.Del("Content-Length")
	if _, err := verify(got, []byte(`{"a":1}`), secret, signedAt); err != nil {
		t.Error(err)
	}
}

func TestSignature_Check(t *testing.T) {
	sig, err := sigv4.Parse(signedRequest("{}"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		now    time.Time
		reason sigv4.Reason
		text   string
	}{
		{"now", signedAt, 0, ""},
		{"15 minutes late", signedAt.Add(15 * time.Minute), 0, ""},
		{"15 minutes and a bit late", signedAt.Add(15*time.Minute + 999*time.Millisecond), 0, ""},
		{"15 minutes early", signedAt.Add(-15 * time.Minute), 0, ""},
		{
			"later", signedAt.Add(15*time.Minute + time.Second), sigv4.ReasonTime,
			"Signature expired: 20261121T102030Z is now earlier than 20261121T102031Z (20261121T103531Z - 15 min.)",
		},
		{
			"earlier", signedAt.Add(-15*time.Minute - time.Second), sigv4.ReasonTime,
			"Signature not yet current: 20261121T102030Z is still later than 20261121T102029Z (20261121T100529Z + 15 min.)",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := sig.Check("lightsail", tt.now)
			if tt.reason == 0 && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tt.reason != 0 {
				wantReason(t, err, tt.reason, tt.text)
			}
		})
	}
	wantReason(t, sig.Check("s3", signedAt), sigv4.ReasonScope, "Credential should be scoped to correct service: 's3'.")
}

func TestParse_Refuses(t *testing.T) {
	const good = "AWS4-HMAC-SHA256 Credential=AKID/20261121/us-east-1/lightsail/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature="
	hexes := strings.Repeat("ab", 32)
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	replace := func(old, with string) func(*http.Request) {
		return set("Authorization", strings.Replace(good+hexes, old, with, 1))
	}
	tests := []struct {
		name   string
		change func(*http.Request)
		reason sigv4.Reason
		text   string
	}{
		{"unsigned", func(r *http.Request) { r.Header.Del("Authorization") }, sigv4.ReasonMissing, "Missing Authentication Token"},
		{"presigned", func(r *http.Request) {
			r.Header.Del("Authorization")
			r.URL.RawQuery = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00"
		}, sigv4.ReasonIncomplete, "Presigned"},
		{"two headers", func(r *http.Request) { r.Header.Add("Authorization", good+hexes) }, sigv4.ReasonIncomplete, "more than one"},
		{"too long", set("Authorization", "AWS4-HMAC-SHA256 "+strings.Repeat("x", 9000)), sigv4.ReasonIncomplete, "longer than"},
		{"basic", set("Authorization", "Basic c2VjcmV0"), sigv4.ReasonIncomplete, "must begin with the algorithm 'AWS4-HMAC-SHA256'"},
		{"SigV4a", replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), sigv4.ReasonIncomplete, "algorithm"},
		{"nothing after the algorithm", set("Authorization", "AWS4-HMAC-SHA256"), sigv4.ReasonIncomplete, "parameter"},
		{"no credential", replace("Credential=AKID/20261121/us-east-1/lightsail/aws4_request, ", ""), sigv4.ReasonIncomplete, "requires 'Credential' parameter"},
		{"no signed headers", replace("SignedHeaders=content-type;host;x-amz-date;x-amz-target, ", ""), sigv4.ReasonIncomplete, "requires 'SignedHeaders' parameter"},
		{"no signature", replace(", Signature="+hexes, ""), sigv4.ReasonIncomplete, "requires 'Signature' parameter"},
		{"parameter twice", replace("SignedHeaders", "Credential=x, SignedHeaders"), sigv4.ReasonIncomplete, "'Credential' twice"},
		{"foreign parameter", replace("SignedHeaders", "Extra=x, SignedHeaders"), sigv4.ReasonIncomplete, "other than"},
		{"short signature", replace(hexes, "abcd"), sigv4.ReasonIncomplete, "64 hexadecimal"},
		{"signature not hex", replace("Signature=ab", "Signature=zz"), sigv4.ReasonIncomplete, "64 hexadecimal"},
		{"short credential", replace("/lightsail/", "/"), sigv4.ReasonIncomplete, "5 slash-delimited"},
		{"no key id", replace("AKID", ""), sigv4.ReasonIncomplete, "5 slash-delimited"},
		{"key id with odd bytes", replace("AKID", "A\x7fKID"), sigv4.ReasonIncomplete, "5 slash-delimited"},
		{"another day", replace("20261121", "20261120"), sigv4.ReasonScope, "'20261120' != '20261121', from '20261121T102030Z'."},
		{"no region", replace("us-east-1", ""), sigv4.ReasonScope, "valid region"},
		{"odd region", replace("us-east-1", "US EAST"), sigv4.ReasonScope, "valid region"},
		{"terminator", replace("aws4_request", "aws3_request"), sigv4.ReasonScope, "valid terminator"},
		{"no date", func(r *http.Request) { r.Header.Del("X-Amz-Date") }, sigv4.ReasonIncomplete, "either a 'X-Amz-Date' or a 'Date'"},
		{"bad date", set("X-Amz-Date", "2026-11-21T10:20:30Z"), sigv4.ReasonIncomplete, "'X-Amz-Date'"},
		{"date with fraction", set("X-Amz-Date", "20261121T102030.5Z"), sigv4.ReasonIncomplete, "'X-Amz-Date'"},
		{"two dates", func(r *http.Request) { r.Header.Add("X-Amz-Date", "20261121T102030Z") }, sigv4.ReasonIncomplete, "'X-Amz-Date'"},
		{"host unsigned", replace(";host", ""), sigv4.ReasonHeaders, "'Host' or ':authority' must be a 'SignedHeader'"},
		{"target unsigned", replace(";x-amz-target", ""), sigv4.ReasonHeaders, "'x-amz-target' must be a 'SignedHeader'"},
		{"content type unsigned", replace("content-type;", ""), sigv4.ReasonHeaders, "'content-type' must be a 'SignedHeader'"},
		{"upper-case signed header", replace(";host", ";Host"), sigv4.ReasonIncomplete, "lower case"},
		{"signed header twice", replace(";host", ";host;host"), sigv4.ReasonIncomplete, "each once"},
		{"empty signed header", replace(";host", ";;host"), sigv4.ReasonIncomplete, "lower case"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRequest("{}")
			r.Header.Set("X-Amz-Date", "20261121T102030Z")
			r.Header.Set("Authorization", good+hexes)
			if _, err := sigv4.Parse(r); err != nil {
				t.Fatalf("the request is refused before it is changed: %v", err)
			}
			tt.change(r)
			_, err := sigv4.Parse(r)
			wantReason(t, err, tt.reason, tt.text)
			if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
				t.Error("the error repeats the Authorization header")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	r := signedRequest("{}")
	f.Add(r.Header.Get("Authorization"), r.Header.Get("X-Amz-Date"), "", "")
	f.Add("AWS4-HMAC-SHA256 Credential=a/20261121/r/lightsail/aws4_request,SignedHeaders=host,Signature="+strings.Repeat("0", 64), "", "Sat, 21 Nov 2026 10:20:30 GMT", "a=1&b")
	f.Add("AWS4-HMAC-SHA256 Credential=,SignedHeaders=,Signature=", "20261121T102030Z", "", "%zz")
	f.Add("Basic Og==", "", "", "X-Amz-Signature=1")
	f.Add("", "", "", "")
	f.Fuzz(func(t *testing.T, authorization, amzDate, dateHeader, query string) {
		r := newRequest("{}")
		r.Header.Set("Authorization", authorization)
		if amzDate != "" {
			r.Header.Set("X-Amz-Date", amzDate)
		}
		if dateHeader != "" {
			r.Header.Set("Date", dateHeader)
		}
		r.URL.RawQuery = query
		sig, err := sigv4.Parse(r)
		if err != nil {
			if e, ok := errors.AsType[*sigv4.Error](err); !ok || e.Message == "" || e.Reason == 0 {
				t.Fatalf("error of another type: %v", err)
			}
			return
		}
		if sig.AccessKeyID == "" || sig.Region == "" || len(sig.SignedHeaders) == 0 {
			t.Fatalf("accepted with parts missing: %+v", sig)
		}
		if err := sig.Verify(r, sha256.Sum256([]byte("{}")), "a secret nobody signed with"); err == nil {
			t.Fatal("verified")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	r, sum := signedRequest("{}"), sha256.Sum256([]byte("{}"))
	b.ReportAllocs()
	for b.Loop() {
		sig, err := sigv4.Parse(r)
		if err != nil {
			b.Fatal(err)
		}
		if err := sig.Verify(r, sum, secret); err != nil {
			b.Fatal(err)
		}
	}
}
