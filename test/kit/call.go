package kit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Answer is what the API said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// Type and Message are those of an error; empty otherwise.
	Type, Message string
}

// Call is a request as no SDK would send it.
type Call struct {
	Target string    // of X-Amz-Target: "Lightsail_20161128.GetRegions"
	Body   string    // anything
	Time   time.Time // of the signature; default now
	// Key and Secret replace the server's admin key.
	Key, Secret string
	// Before changes the request before it is signed, After changes it afterwards.
	Before, After func(*http.Request)
}

// Call signs and sends a request and returns whatever comes back.
func (s *Server) Call(ctx context.Context, c Call) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.API+"/", bytes.NewReader([]byte(c.Body)))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	if c.Target != "" {
		req.Header.Set("X-Amz-Target", c.Target)
	}
	if c.Before != nil {
		c.Before(req)
	}
	if c.Time.IsZero() {
		c.Time = time.Now()
	}
	if c.Key == "" {
		c.Key = s.Vars["AWS_ACCESS_KEY_ID"]
	}
	if c.Secret == "" {
		c.Secret = s.Vars["AWS_SECRET_ACCESS_KEY"]
	}
	sum := sha256.Sum256([]byte(c.Body))
	err = v4.NewSigner().SignHTTP(ctx, aws.Credentials{AccessKeyID: c.Key, SecretAccessKey: c.Secret}, req,
		hex.EncodeToString(sum[:]), "lightsail", s.Vars["AWS_REGION"], c.Time)
	if err != nil {
		return Answer{}, fmt.Errorf("signing: %w", err)
	}
	if c.After != nil {
		c.After(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	a := Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}
	var e struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &e) == nil {
		a.Type, a.Message = e.Type, e.Message
	}
	return a, nil
}
