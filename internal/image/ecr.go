package image

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/smithy-go"

	"github.com/trysail/trysail"
)

// ECRLogin is a login for the private ECR registries of one region.
type ECRLogin struct {
	Username, Password string
	ExpiresAt          time.Time
}

// ecrTimeout bounds getting an ECRLogin. On a machine without credentials the SDK asks in vain for those of an
// instance.
const ecrTimeout = 10 * time.Second

// awsLogin gets a login from ECR with the credentials that the SDK finds: environment, shared files, container,
// instance.
func awsLogin(ctx context.Context, region string) (ECRLogin, error) {
	ctx, cancel := context.WithTimeout(ctx, ecrTimeout)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return ECRLogin{}, err
	}
	out, err := ecr.NewFromConfig(cfg).GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return ECRLogin{}, err
	}
	for _, data := range out.AuthorizationData {
		if data.AuthorizationToken == nil || data.ExpiresAt == nil {
			continue
		}
		pair, err := base64.StdEncoding.DecodeString(*data.AuthorizationToken)
		user, password, ok := strings.Cut(string(pair), ":")
		if err == nil && ok {
			return ECRLogin{Username: user, Password: password, ExpiresAt: *data.ExpiresAt}, nil
		}
	}
	return ECRLogin{}, errors.New("AWS answered without a token")
}

// ecrError says that there is no login for ECR.
type ecrError struct{ err error }

func (e *ecrError) Error() string { return "getting a login from AWS: " + e.err.Error() }
func (e *ecrError) Unwrap() error { return e.err }

// ecrFault is about AWS, which did not give this machine a login.
func (q *query) ecrFault(e *ecrError) *trysail.ImageError {
	const permissions = "ecr:GetAuthorizationToken, ecr:BatchGetImage and ecr:GetDownloadUrlForLayer"
	f := &trysail.ImageError{
		Code:    codeAuth,
		Message: "AWS gives this machine no login for " + q.registry() + ": it finds no credentials that work.",
		Fix: "Give the server credentials with " + permissions + " (an instance role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its environment), " +
			"or store a login: trysail registry login " + hostName(q.ref.Context()),
	}
	if api, ok := errors.AsType[smithy.APIError](e.err); ok {
		f.Message = "AWS refuses this machine a login for " + q.registry() + ": " + mark(api.ErrorCode()+": "+api.ErrorMessage()) + "."
		f.Final = api.ErrorFault() == smithy.FaultClient || slices.ContainsFunc(
			[]string{"AccessDenied", "UnrecognizedClient", "ExpiredToken", "InvalidSignature", "InvalidClientTokenId"},
			func(prefix string) bool { return strings.HasPrefix(api.ErrorCode(), prefix) })
	}
	return f
}
