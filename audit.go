package trysail

import (
	"strings"
	"time"
)

// AuditOutcome says what came of a call.
type AuditOutcome string

// The outcomes of a call in the audit trail.
const (
	AuditSuccess AuditOutcome = "success"
	AuditFailure AuditOutcome = "failure" // refused, because of the request, the state or the role of its caller, or failed
	// AuditUnauthenticated is that of a call by somebody who did not show to be who they said.
	AuditUnauthenticated AuditOutcome = "unauthenticated"
)

// AuditOutcomes lists them all.
func AuditOutcomes() []AuditOutcome {
	return []AuditOutcome{AuditSuccess, AuditFailure, AuditUnauthenticated}
}

// ConsoleSignIn is the name in the audit trail of signing in to the console, which is no operation of the API.
const ConsoleSignIn = "ConsoleSignIn"

// ConsoleAgent begins the user agent of calls that were made with the console.
const ConsoleAgent = "trysail-console"

// Origin is where a call came from. All of it is what the client says or seems to be, for the audit trail alone: nothing
// is decided by it.
type Origin struct {
	RequestID     string
	SourceAddress string // of the client, without a port
	UserAgent     string
}

// Client is the program that the user agent names, in words; empty if it names none.
func (o Origin) Client() string {
	for _, known := range []struct{ in, name string }{
		{ConsoleAgent, "Console"},
		{"trysail-cli", "trysail"},
		{"Terraform", "Terraform"},
		{"Pulumi", "Pulumi"},
		{"aws-cli/", "AWS CLI"},
		{"Boto3/", "boto3"},
		{"aws-sdk-go-v2/", "AWS SDK for Go"},
		{"aws-sdk-js/", "AWS SDK for JavaScript"},
	} {
		if strings.Contains(o.UserAgent, known.in) {
			return known.name
		}
	}
	first, _, _ := strings.Cut(o.UserAgent, " ")
	return first
}

// AuditEvent says who did what, when, from where, and what came of it. Only calls that change something, or would have,
// have one.
type AuditEvent struct {
	At time.Time
	// Caller has the id, name and role that the key had then. Of an unauthenticated call there is at most the id that it claimed.
	Caller    Caller
	Operation string // the API's name, or ConsoleSignIn
	// Service is the name of the service that was concerned, Resource of whatever was; either may be empty.
	Service  string
	Resource string
	Outcome  AuditOutcome
	// ErrorCode is the name of the exception that a call was answered with which did not succeed.
	ErrorCode string
	Origin
	// Details are more words on it, by what they are: version, command, message. No secret is among them.
	Details map[string]string
}
