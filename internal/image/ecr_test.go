package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const ecrHost = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"

// ecrRegistry answers as ECR does.
func ecrRegistry(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user+":"+password != "AWS:geheim" {
			answer(401, "application/json", "Not Authorized\n", "Www-Authenticate", `Basic realm="https://`+ecrHost+`/",service="ecr.amazonaws.com"`)(w, r)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

func TestResolver_ECRAsksAWSOnce(t *testing.T) {
	reg := newRegistry()
	_, open := serve(t, reg)
	push(t, open+"/app:v1", build(t, "linux", "amd64", v1.Config{}))
	srv := serveTLS(t, ecrRegistry(reg))
	var asked atomic.Int32
	r := newResolver(t, Config{ECR: func(_ context.Context, region string) (ECRLogin, error) {
		asked.Add(1)
		if region != "eu-central-1" {
			t.Errorf("region %q", region)
		}
		return ECRLogin{Username: "AWS", Password: "geheim", ExpiresAt: time.Now().Add(time.Hour)}, nil
	}})
	redirected(r, srv)
	for range 3 {
		if _, err := r.Resolve(t.Context(), ecrHost+"/app:v1"); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("AWS was asked %d times", asked.Load())
	}
	// A stored login comes first.
	r = newResolver(t, Config{Registries: login("AWS", "geheim"), ECR: func(context.Context, string) (ECRLogin, error) { return ECRLogin{}, errors.New("asked") }})
	redirected(r, srv)
	if _, err := r.Resolve(t.Context(), ecrHost+"/app:v1"); err != nil {
		t.Error(err)
	}
}

func TestResolver_ECRThatExpiresSoonIsAskedAgain(t *testing.T) {
	reg := newRegistry()
	_, open := serve(t, reg)
	push(t, open+"/app:v1", build(t, "linux", "amd64", v1.Config{}))
	srv := serveTLS(t, ecrRegistry(reg))
	var asked atomic.Int32
	r := newResolver(t, Config{ECR: func(context.Context, string) (ECRLogin, error) {
		asked.Add(1)
		return ECRLogin{Username: "AWS", Password: "geheim", ExpiresAt: time.Now().Add(time.Second)}, nil
	}})
	redirected(r, srv)
	for range 2 {
		if _, err := r.Resolve(t.Context(), ecrHost+"/app:v1"); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("AWS was asked %d times", asked.Load())
	}
}

func TestResolver_ECRWithoutALogin(t *testing.T) {
	srv := serveTLS(t, ecrRegistry(newRegistry()))
	for _, tt := range []struct {
		err  error
		want want
	}{
		{errors.New("no EC2 IMDS role found"), want{"IMG-AUTH", false, []string{"finds no credentials", "ecr:BatchGetImage", "AWS_ACCESS_KEY_ID", "trysail registry login " + ecrHost}}},
		{&smithy.GenericAPIError{Code: "AccessDeniedException", Message: "not allowed"}, want{"IMG-AUTH", true, []string{"`AccessDeniedException: not allowed`"}}},
		{&smithy.GenericAPIError{Code: "ThrottlingException", Message: "slowly", Fault: smithy.FaultServer}, want{"IMG-AUTH", false, []string{"slowly"}}},
	} {
		r := newResolver(t, Config{ECR: func(context.Context, string) (ECRLogin, error) { return ECRLogin{}, tt.err }})
		redirected(r, srv)
		tt.want.check(t, resolveError(t, r, ecrHost+"/app:v1"))
	}
}

// TestAWSLogin_UsesTheDefaultChain talks to an ECR of our own through the SDK.
func TestAWSLogin_UsesTheDefaultChain(t *testing.T) {
	expires := time.Now().Add(12 * time.Hour).Truncate(time.Second)
	var status atomic.Int32
	status.Store(200)
	_, host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target, auth := r.Header.Get("X-Amz-Target"), r.Header.Get("Authorization")
		if !strings.HasSuffix(target, ".GetAuthorizationToken") || !strings.Contains(auth, "Credential=AKIDTEST/") || !strings.Contains(auth, "/eu-west-3/ecr/") {
			t.Errorf("target %q, authorization %q", target, auth)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if status.Load() != 200 {
			w.WriteHeader(int(status.Load()))
			_, _ = io.WriteString(w, `{"__type":"AccessDeniedException","message":"User is not authorized to perform: ecr:GetAuthorizationToken"}`)
			return
		}
		token := base64.StdEncoding.EncodeToString([]byte("AWS:geheim"))
		fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d,"proxyEndpoint":"https://%s"}]}`, token, expires.Unix(), ecrHost)
	}))
	none := filepath.Join(t.TempDir(), "none")
	for key, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_ENDPOINT_URL_ECR": "http://" + host,
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1",
	} {
		t.Setenv(key, value)
	}
	got, err := awsLogin(t.Context(), "eu-west-3")
	if err != nil {
		t.Fatal(err)
	}
	if got.Username != "AWS" || got.Password != "geheim" || !got.ExpiresAt.Equal(expires) {
		t.Errorf("%+v", got)
	}
	status.Store(400)
	srv := serveTLS(t, ecrRegistry(newRegistry()))
	r := newResolver(t, Config{})
	redirected(r, srv)
	e := resolveError(t, r, strings.Replace(ecrHost, "eu-central-1", "eu-west-3", 1)+"/app")
	want{"IMG-AUTH", true, []string{"User is not authorized"}}.check(t, e)

	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	e = resolveError(t, r, strings.Replace(ecrHost, "eu-central-1", "eu-west-3", 1)+"/app")
	want{"IMG-AUTH", false, []string{"finds no credentials"}}.check(t, e)
}
