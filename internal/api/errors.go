package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/sigv4"
)

// exception is an error as the client sees it.
type exception struct {
	status  int
	name    string // of the AWS exception
	message string
}

func (e exception) Error() string { return e.name + ": " + e.message }

// body is the JSON of the exception. Botocore reads its type from __type, other clients from the header or from code.
func (e exception) body() []byte {
	text, err := json.Marshal(struct {
		Type    string  `json:"__type"`
		Code    string  `json:"code"`
		Docs    *string `json:"docs"`
		Message string  `json:"message"`
		Tip     *string `json:"tip"`
	}{Type: e.name, Code: e.name, Message: e.message})
	if err != nil {
		return []byte(`{"__type":"InternalFailure"}`) // cannot be: strings always have a JSON form
	}
	return text
}

// The exceptions that the API itself makes, before control is asked.

func unknownOperation(message string) error {
	return exception{http.StatusNotFound, "UnknownOperationException", message}
}

func malformedRequest(message string) error {
	return exception{http.StatusBadRequest, "MalformedHttpRequestException", message}
}

func tooLarge(limit int64) error {
	return exception{http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException", fmt.Sprintf("The request body is larger than %d bytes.", limit)}
}

func unknownKey() error {
	return exception{http.StatusForbidden, "UnrecognizedClientException", "The security token included in the request is invalid."}
}

func notReadable(format string, args ...any) error {
	return exception{http.StatusBadRequest, "SerializationException", fmt.Sprintf(format, args...)}
}

// panicError is a panic of an operation.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// exceptionOf is the one place where errors become exceptions. Client errors have status 400, as the API reference says
// for this protocol, except those that AWS's front door gives.
func exceptionOf(err error) exception {
	if e, ok := errors.AsType[exception](err); ok {
		return e
	}
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return signatureException(e)
	}
	if e, ok := errors.AsType[*trysail.Error](err); ok {
		return domainException(e)
	}
	if _, ok := errors.AsType[*panicError](err); ok {
		return exception{http.StatusInternalServerError, "InternalFailure", "The request processing has failed because of an unknown error, exception or failure."}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return exception{http.StatusServiceUnavailable, "ServiceException", "The request took too long. Please try again."}
	}
	return exception{http.StatusInternalServerError, "ServiceException", "An internal error occurred. The server's log has the reason under the request id."}
}

func domainException(e *trysail.Error) exception {
	status := http.StatusBadRequest
	switch e.Code { //nolint:exhaustive // the others are the client's fault
	case trysail.CodeUnavailable:
		status = http.StatusServiceUnavailable
	case trysail.CodeInternal:
		status = http.StatusInternalServerError
	}
	return exception{status, e.Code.Exception(), e.Message}
}

func signatureException(e *sigv4.Error) exception {
	switch e.Reason {
	case sigv4.ReasonMissing:
		return exception{http.StatusForbidden, "MissingAuthenticationTokenException", e.Message}
	case sigv4.ReasonIncomplete:
		return exception{http.StatusForbidden, "IncompleteSignature", e.Message}
	default:
		return exception{http.StatusForbidden, "InvalidSignatureException", e.Message}
	}
}

// shorten cuts text of the client's that is repeated in an error.
func shorten(s string) string {
	const limit = 120
	if len(s) <= limit {
		return s
	}
	n := limit
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
