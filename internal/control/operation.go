package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// operationsPerPage is how many operations one answer has.
const operationsPerPage = 100

// OperationPage is the answer of GetOperations and GetOperationsForResource.
type OperationPage struct {
	Operations    []trysail.Operation // newest first
	NextPageToken string              // empty when there is no more
}

// createDeployment is the operation that has a version to tell of.
const createDeployment = "CreateContainerServiceDeployment"

// recorded are the operations that GetOperation knows, with the status that they begin with: those that go on after
// their call has been answered are Started.
func recorded(operation string) (trysail.OperationStatus, bool) {
	switch operation {
	case "CreateContainerService", "UpdateContainerService", "DeleteContainerService", createDeployment:
		return trysail.OperationStarted, true
	case "RegisterContainerImage", "DeleteContainerImage", "CreateContainerServiceRegistryLogin", "TagResource", "UntagResource",
		"CreateCertificate", "DeleteCertificate":
		return trysail.OperationSucceeded, true
	}
	return "", false
}

// record notes an operation in the transaction that carries it out.
func record(tx *store.Tx, operation, resource string) (trysail.Operation, error) {
	status, ok := recorded(operation)
	if !ok {
		return trysail.Operation{}, nil
	}
	o := trysail.Operation{ID: newUUID(), ResourceName: resource, Type: operation, Status: status, CreatedAt: tx.Now(), ChangedAt: tx.Now()}
	o.ResourceType = trysail.ResourceService
	switch operation {
	case "CreateCertificate", "DeleteCertificate":
		o.ResourceType = trysail.ResourceCertificate
	case "TagResource", "UntagResource":
		if _, err := tx.Certificate(resource); err == nil {
			o.ResourceType = trysail.ResourceCertificate
		}
	}
	if operation == createDeployment {
		s, err := tx.Service(resource)
		if err != nil {
			return o, err
		}
		o.Details = fmt.Sprintf("deployment %d", s.Next.Version)
	}
	return o, tx.InsertOperation(o)
}

// GetOperation finds an operation by its id. Errors: NotFound.
func (c *Control) GetOperation(ctx context.Context, caller trysail.Caller, id string) (o trysail.Operation, err error) {
	if err := maySee(caller, "GetOperation", ""); err != nil {
		return o, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		o, err = tx.Operation(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && !caller.Sees(o.ResourceName) {
			return trysail.Errorf(trysail.CodeNotFound, "Operation %q not found.", id)
		}
		return err
	})
	if err != nil {
		return trysail.Operation{}, err
	}
	return o, nil
}

// GetOperations lists all operations that the caller may see. Errors: Invalid (token).
func (c *Control) GetOperations(ctx context.Context, caller trysail.Caller, pageToken string) (*OperationPage, error) {
	if err := maySee(caller, "GetOperations", ""); err != nil {
		return nil, err
	}
	page, err := c.operations(ctx, "", pageToken)
	if err != nil {
		return nil, err
	}
	page.Operations = slices.DeleteFunc(page.Operations, func(o trysail.Operation) bool { return !caller.Sees(o.ResourceName) })
	return page, nil
}

// GetOperationsForResource lists the operations on a service or certificate, also on one that is deleted.
// Errors: Invalid (name, token), NotFound when there never was such a thing.
func (c *Control) GetOperationsForResource(ctx context.Context, caller trysail.Caller, resourceName, pageToken string) (*OperationPage, error) {
	if err := caller.May(trysail.RoleRead, "GetOperationsForResource", resourceName); err != nil {
		return nil, err
	}
	if err := trysail.ValidateServiceName(resourceName); err != nil && trysail.ValidateCertificateName(resourceName) != nil {
		return nil, err
	}
	page, err := c.operations(ctx, resourceName, pageToken)
	if err == nil && len(page.Operations) == 0 && pageToken == "" {
		_, err = c.GetContainerServices(ctx, caller, resourceName)
	}
	return page, err
}

func (c *Control) operations(ctx context.Context, resource, pageToken string) (*OperationPage, error) {
	before, err := strconv.ParseInt(pageToken, 10, 64)
	if pageToken != "" && (err != nil || before <= 0) {
		return nil, trysail.Errorf(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.")
	}
	page := &OperationPage{}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		list, next, err := tx.Operations(resource, before, operationsPerPage)
		page.Operations = list
		if next > 0 {
			page.NextPageToken = strconv.FormatInt(next, 10)
		}
		return err
	})
	return page, err
}
