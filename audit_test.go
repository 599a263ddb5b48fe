package trysail_test

import (
	"testing"

	"github.com/trysail/trysail"
)

func TestOrigin_Client(t *testing.T) {
	for agent, want := range map[string]string{
		"":                                   "",
		"curl/8.1":                           "curl/8.1",
		"aws-cli/2.9.19 Python/3.11 Linux":   "AWS CLI",
		"Boto3/1.28 md/Botocore#1.31":        "boto3",
		"aws-sdk-go-v2/1.40 ua/2.1 os/linux": "AWS SDK for Go",
		"aws-sdk-go-v2/1.40 app/trysail-cli": "trysail",
		"trysail-cli":                        "trysail",
		"APN/1.0 HashiCorp/1.0 Terraform/1.9 aws-sdk-go-v2/1.40": "Terraform",
		trysail.ConsoleAgent + "/0.9 Mozilla/5.0":                "Console",
	} {
		if got := (trysail.Origin{UserAgent: agent}).Client(); got != want {
			t.Errorf("%q: got %q, want %q", agent, got, want)
		}
	}
}
