package trysail_test

import (
	"testing"

	"github.com/trysail/trysail"
)

func TestECRRegion_KnowsPrivateRegistries(t *testing.T) {
	for image, want := range map[string]string{
		"123456789012.dkr.ecr.eu-central-1.amazonaws.com/app:v1":         "eu-central-1",
		"123456789012.dkr.ecr.us-east-1.amazonaws.com":                   "us-east-1",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/a/b@sha256:00": "cn-north-1",
		"123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com/app":      "us-gov-west-1",
		"123456789012.dkr-ecr.us-west-2.on.aws/app":                      "us-west-2",
		"public.ecr.aws/nginx/nginx:1.27":                                "",
		"nginx":                                                          "",
		":svc.label.1":                                                   "",
		"12345678901.dkr.ecr.us-east-1.amazonaws.com/app":                "",
		"123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.example/app":  "",
		"evil.123456789012.dkr.ecr.us-east-1.amazonaws.com/app":          "",
		"123456789012.dkr.ecr.a.b.amazonaws.com/app":                     "",
		"123456789012.dkr.ecr..amazonaws.com/app":                        "",
		"example.com/123456789012.dkr.ecr.us-east-1.amazonaws.com/app":   "",
		"123456789012.dkr.ecr.us-east-1.amazonaws.com:5000/app":          "",
		"123456789012.dkr.ecrus-east-1.amazonaws.com/app":                "",
	} {
		got, ok := trysail.ECRRegion(image)
		if got != want || ok != (want != "") || trysail.IsECR(image) != ok {
			t.Errorf("ECRRegion(%q) = %q, %v; want %q", image, got, ok, want)
		}
	}
}
