package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/aws/smithy-go"
)

const (
	defaultRegion = "us-east-1"
	// callTimeout bounds one try of one call; the slowest honest answer is a page of a long log.
	callTimeout = 30 * time.Second
	// maxAnswer bounds the answer to one of our own operations.
	maxAnswer = 8 << 20
)

// settings say where the server is and who calls it.
type settings struct {
	endpoint     string
	region       string
	ca           string // file, may be empty
	keyID        string
	secret       string
	sessionToken string
}

// client calls the API: Lightsail's operations through the SDK, Trysail's own by call.
type client struct {
	*lightsail.Client
	settings settings
	http     *http.Client
	signer   *v4.Signer
	provider aws.CredentialsProvider // of an AWS configuration; nil: the settings have them
	account  bool                    // an AWS account, wherever its endpoint is

	notes io.Writer       // where to tell what is beside the answer; nil: nowhere
	told  map[string]bool // servers of which has been told that they did not answer
}

// noteMissing tells, once, which of several servers did not give their newest lines or points.
func (c *client) noteMissing(servers []string) {
	for _, name := range servers {
		if c.notes == nil || c.told[name] {
			continue
		}
		if c.told == nil {
			c.told = map[string]bool{}
		}
		c.told[name] = true
		fmt.Fprintf(c.notes, "The newest of server %s may be missing: it does not answer the others.\n", clean(name))
	}
}

// settings takes the endpoint and the credentials from the environment, or, when that names no endpoint, from the
// server's admin key. An access key in the environment alone is not enough: it may be meant for AWS, and a command for
// this machine must not reach the services there.
func (a *App) settings(dataDir string) (settings, error) {
	endpoint := a.Getenv("AWS_ENDPOINT_URL_LIGHTSAIL")
	if endpoint == "" {
		endpoint = a.Getenv("AWS_ENDPOINT_URL")
	}
	if endpoint == "" {
		admin, err := readAdmin(dataDir)
		if err != nil {
			return settings{}, noEnvironment(err)
		}
		return settings{endpoint: admin.Endpoint, region: admin.Region, ca: admin.CA, keyID: admin.AccessKeyID, secret: admin.SecretAccessKey}, nil
	}
	s := settings{
		endpoint: endpoint, ca: a.Getenv("TRYSAIL_CA"), keyID: a.Getenv("AWS_ACCESS_KEY_ID"),
		secret: a.Getenv("AWS_SECRET_ACCESS_KEY"), sessionToken: a.Getenv("AWS_SESSION_TOKEN"), region: a.Getenv("AWS_REGION"),
	}
	if s.region == "" {
		s.region = a.Getenv("AWS_DEFAULT_REGION")
	}
	if s.keyID == "" || s.secret == "" {
		return s, WithHint(errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"), `Set them with: eval "$(trysail env)"`)
	}
	return s, nil
}

// noEnvironment says what to do when neither the environment nor the admin key tells where the server is.
func noEnvironment(err error) error {
	if errors.Is(err, errNoAdmin) {
		return WithHint(errors.New("no Trysail is known: AWS_ENDPOINT_URL_LIGHTSAIL is not set, and no server has run on this machine"),
			`Start one with: trysail serve, or, where one runs: eval "$(trysail env)"`)
	}
	return err
}

// connect makes a client. It does not call the server yet.
func (a *App) connect(dataDir string) (*client, error) {
	s, err := a.settings(dataDir)
	if err != nil {
		return nil, err
	}
	if a.client, err = connectTo(s); err != nil {
		return nil, err
	}
	a.client.notes = a.Err
	return a.client, nil
}

// connectTo makes a client with these settings.
func connectTo(s settings) (*client, error) {
	if s.region == "" {
		s.region = defaultRegion
	}
	u, err := url.Parse(s.endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, WithHint(fmt.Errorf("AWS_ENDPOINT_URL_LIGHTSAIL is %q, which is no http:// or https:// address", s.endpoint),
			"Set it with: eval \"$(trysail env)\"")
	}
	s.endpoint = strings.TrimRight(s.endpoint, "/")
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck,forcetypeassert // is one unless the program replaces it
	if u.Scheme == "https" && s.ca != "" {
		if transport.TLSClientConfig, err = trust(s.ca); err != nil {
			return nil, err
		}
	}
	c := &client{settings: s, http: &http.Client{Transport: transport, Timeout: callTimeout}, signer: v4.NewSigner()}
	c.Client = lightsail.New(lightsail.Options{
		Region:       s.region,
		BaseEndpoint: aws.String(s.endpoint),
		HTTPClient:   c.http,
		AppID:        userAgent,
		Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c.credentials(), nil }),
		Retryer:      retry.NewStandard(retryOptions),
	})
	return c, nil
}

// trust accepts certificates of the file's CA besides those that the machine trusts anyway.
func trust(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the path is the user's
	if err != nil {
		return nil, WithHint(fmt.Errorf("reading the CA certificate of TRYSAIL_CA: %w", err), "Set it with: eval \"$(trysail env)\"")
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without trusted roots still has ours
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, WithHint(fmt.Errorf("%s, named by TRYSAIL_CA, holds no certificate", file), "Set it with: eval \"$(trysail env)\"")
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// retryOptions keep the SDK's retries of throttling and server errors, but a refused connection is told at once: there
// is no server, and a person waits for the answer.
func retryOptions(o *retry.StandardOptions) {
	o.MaxBackoff = 2 * time.Second
	refused := retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return aws.FalseTernary
		}
		return aws.UnknownTernary
	})
	o.Retryables = append([]retry.IsErrorRetryable{refused}, o.Retryables...)
}

func (c *client) credentials() aws.Credentials {
	s := c.settings
	return aws.Credentials{AccessKeyID: s.keyID, SecretAccessKey: s.secret, SessionToken: s.sessionToken}
}

// userAgent is the name by which the audit trail knows the command.
const userAgent = "trysail-cli"

// call makes one of the operations that AWS does not have, so it makes none to an AWS account. It is not retried.
func (c *client) call(ctx context.Context, operation string, in, out any) error {
	if c.onAWS() {
		return fmt.Errorf("AWS does not have the operation %s; it is Trysail's own", operation)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.settings.endpoint+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "Trysail_20261120."+operation)
	req.Header.Set("User-Agent", userAgent)
	hash := sha256.Sum256(body)
	credentials := c.credentials()
	if c.provider != nil {
		if credentials, err = c.provider.Retrieve(ctx); err != nil {
			return fmt.Errorf("getting credentials: %w", err)
		}
	}
	if err := c.signer.SignHTTP(ctx, credentials, req, hex.EncodeToString(hash[:]), "lightsail", c.settings.region, time.Now()); err != nil {
		return fmt.Errorf("signing the call: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return apiError(resp, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("reading the answer to %s: %w", operation, err)
	}
	return nil
}

// apiError reads an error answer in AWS's form.
func apiError(resp *http.Response, answer []byte) error {
	var e struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(answer, &e); err != nil || e.Type == "" {
		return WithHint(fmt.Errorf("the answer, HTTP status %s, is not one of the Lightsail API", resp.Status), "Check AWS_ENDPOINT_URL_LIGHTSAIL")
	}
	code := e.Type
	if _, name, ok := strings.Cut(code, "#"); ok {
		code = name
	}
	return &smithy.GenericAPIError{Code: code, Message: e.Message}
}

// isCode reports whether the API answered with the exception of that name.
func isCode(err error, code string) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && e.ErrorCode() == code
}

// service returns one service. Errors: NotFoundException.
func (c *client) service(ctx context.Context, name string) (*types.ContainerService, error) {
	out, err := c.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{ServiceName: &name})
	if err != nil {
		return nil, err
	}
	if len(out.ContainerServices) == 0 {
		return nil, &types.NotFoundException{Message: aws.String(fmt.Sprintf("Service %q not found.", name))}
	}
	return &out.ContainerServices[0], nil
}

// onAWS reports whether this is an AWS account, which has Lightsail's operations and no others.
func (c *client) onAWS() bool { return c.account || c.atAmazon() }

// atAmazon reports whether the endpoint is Amazon's own, where nothing is fast and calls are counted.
func (c *client) atAmazon() bool {
	u, err := url.Parse(c.settings.endpoint)
	return err == nil && (strings.HasSuffix(u.Hostname(), ".amazonaws.com") || strings.HasSuffix(u.Hostname(), ".api.aws"))
}
