package trysail

import (
	"errors"
	"fmt"
)

// Code says whose fault an error is and what a client may do about it. internal/api maps it to an AWS exception.
type Code string

// The codes of an Error.
const (
	CodeInvalid      Code = "invalid"       // the request is wrong, or the service is in the wrong state for it
	CodeNotFound     Code = "not_found"     // the thing named does not exist
	CodeAccessDenied Code = "access_denied" // the caller is known but may not
	CodeUnsupported  Code = "unsupported"   // a Lightsail operation that Trysail does not serve (yet)
	CodeUnavailable  Code = "unavailable"   // cannot be done now: a full disk, no room; try again
	CodeInternal     Code = "internal"      // ours
)

// Exception is the name of the AWS exception that stands for the code.
func (c Code) Exception() string {
	switch c {
	case CodeInvalid, CodeUnsupported:
		return "InvalidInputException"
	case CodeNotFound:
		return "NotFoundException"
	case CodeAccessDenied:
		return "AccessDeniedException"
	case CodeUnavailable, CodeInternal:
	}
	return "ServiceException"
}

// Error is the only error type whose text a client ever sees.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// ErrorCode returns the code of the Error in err's chain, or CodeInternal for any other error.
func ErrorCode(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}
