package trysail

import "time"

// OperationStatus is how far an operation is.
type OperationStatus string

// An operation begins as Started, or as Succeeded when everything is done in the call itself.
const (
	OperationStarted   OperationStatus = "Started"
	OperationSucceeded OperationStatus = "Succeeded"
	OperationFailed    OperationStatus = "Failed"
)

// Terminal reports whether the status does not change any more.
func (s OperationStatus) Terminal() bool { return s == OperationSucceeded || s == OperationFailed }

// The types of resources that operations are about. The word is the wire value.
const (
	ResourceService     = "ContainerService"
	ResourceCertificate = "Certificate"
)

// Operation is the record of one call that changed something, and of what became of it.
type Operation struct {
	ID           string
	ResourceName string // of the service or certificate; empty when none was concerned
	ResourceType string // ResourceService or ResourceCertificate
	Type         string // the API's name of the operation
	Details      string // such as "deployment 3"; may be empty
	Status       OperationStatus
	CreatedAt    time.Time
	ChangedAt    time.Time // when Status changed last
	ErrorCode    string    // of a failed one: the code of the diagnosis
	ErrorDetails string    // of a failed one: summary and fix
}
