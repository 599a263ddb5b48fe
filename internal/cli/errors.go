package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/spf13/cobra"
)

// The exit statuses of the program.
const (
	ExitOK               = 0
	ExitFailed           = 1 // the reason is on standard error
	ExitUsage            = 2
	ExitDeploymentFailed = 3 // the explanation is on standard output
)

var (
	errDeploymentFailed = errors.New("the deployment FAILED")
	// errSilent ends a command that has already said on standard output what is wrong.
	errSilent = errors.New("failed")
)

// usageError is a command line that makes no sense.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// Usagef makes an error that ends the program with ExitUsage.
func Usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// hintError is an error with what to try next.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// WithHint adds to err what the user may try next: a whole sentence. It is printed after the error's own text.
func WithHint(err error, format string, args ...any) error {
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// complain prints an error.
func (a *App) complain(err error) {
	text, hint := describe(err)
	text = sentence(text)
	a.annotate("error", "trysail", strings.TrimSpace(text+" "+hint))
	if hint == "" || text == "" {
		fmt.Fprintf(a.Err, "trysail: %s\n", text)
		return
	}
	if !strings.ContainsAny(text[len(text)-1:], ".?!") {
		text += "."
	}
	fmt.Fprintf(a.Err, "trysail: %s %s\n", text, hint)
}

// sentence begins the text with a capital letter, unless its first word is a name of something: a flag, a file.
func sentence(text string) string {
	word, _, _ := strings.Cut(text, " ")
	for _, r := range word {
		if r < 'a' || r > 'z' {
			return text
		}
	}
	if word == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// describe turns an error into what happened and what to try, without the layers that the SDK wraps around it.
func describe(err error) (text, hint string) {
	if h, ok := errors.AsType[*hintError](err); ok {
		text, _ := describe(h.err)
		return text, h.hint
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return describeAPI(e)
	}
	if _, ok := errors.AsType[*x509.CertificateInvalidError](err); ok || isUnknownAuthority(err) {
		return fmt.Sprintf("the certificate of %s cannot be verified: %v", endpointOf(err), innermost(err)),
			"Set TRYSAIL_CA to the file of its local CA: eval \"$(trysail env)\""
	}
	if text, hint := describeNetwork(err); text != "" {
		return text, hint
	}
	return innermost(err).Error(), ""
}

func isUnknownAuthority(err error) bool {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	return unknown || host
}

func describeAPI(e smithy.APIError) (text, hint string) {
	text = e.ErrorCode()
	if m := e.ErrorMessage(); m != "" {
		text += ": " + m
	}
	switch e.ErrorCode() {
	case "UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch", "InvalidClientTokenId",
		"IncompleteSignature", "UnauthenticatedException":
		hint = "Get valid credentials with: eval \"$(trysail env)\""
	case "UnknownOperationException":
		hint = "This endpoint does not serve that operation; is it a Trysail, and new enough?"
	default:
		hint = nextCommand(e.ErrorMessage())
	}
	return text, hint
}

func describeNetwork(err error) (text, hint string) {
	at := endpointOf(err)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Sprintf("no Trysail answers at %s", at), "Start it with: trysail serve"
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("the host %s is not known", e.Name), "Check AWS_ENDPOINT_URL_LIGHTSAIL"
	}
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		return fmt.Sprintf("%s did not answer in time", at), "Check that the server is up with: trysail doctor"
	}
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return fmt.Sprintf("%s speaks plain HTTP", at), "Set AWS_ENDPOINT_URL_LIGHTSAIL to an http:// address"
	}
	if isNetwork(err) {
		return fmt.Sprintf("%s does not answer: %v", at, innermost(err)), "Check that the server is up with: trysail doctor"
	}
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status := e.HTTPStatusCode()
		return fmt.Sprintf("the answer, HTTP status %d (%s), is not one of the Lightsail API", status, http.StatusText(status)),
			"Check AWS_ENDPOINT_URL_LIGHTSAIL"
	}
	return "", ""
}

// isNetwork reports whether the server could not be talked to at all, so that the same call may work a moment later.
func isNetwork(err error) bool {
	if _, ok := errors.AsType[smithy.APIError](err); ok {
		return false
	}
	_, ok := errors.AsType[*url.Error](err)
	return ok && !errors.Is(err, context.Canceled)
}

// endpointOf is the address that was called, without its path.
func endpointOf(err error) string {
	e, ok := errors.AsType[*url.Error](err)
	if !ok {
		return "the server"
	}
	u, parseErr := url.Parse(e.URL)
	if parseErr != nil {
		return e.URL
	}
	return u.Scheme + "://" + u.Host
}

// innermost takes off what the SDK and net/http put around an error: the operation, the attempts, the URL.
func innermost(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // peels exactly these layers, one at a time
		case *smithy.OperationError:
			err = e.Err
		case *smithyhttp.RequestSendError:
			err = e.Err
		case *smithyhttp.ResponseError:
			err = e.Err
		case *url.Error:
			err = e.Err
		case *smithy.CanceledError:
			err = e.Err
		default:
			return err
		}
	}
}

// unknownCommand names the nearest commands, as a typo is the likely cause.
func unknownCommand(cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q", name)
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return Usagef("%s", text)
}

// exactArgs checks the number of arguments; names are what they are called in the usage line.
func exactArgs(names ...string) cobra.PositionalArgs {
	return rangeArgs(len(names), names...)
}

// rangeArgs is exactArgs where the arguments from the least on may be absent.
func rangeArgs(least int, names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least {
			return Usagef("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return Usagef("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}
