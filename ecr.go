package trysail

import "strings"

// IsECR reports whether an image is in a private registry of Amazon ECR. It goes by the name alone.
func IsECR(image string) bool {
	_, ok := ECRRegion(image)
	return ok
}

// ECRRegion is the AWS region of the private ECR registry that an image name, or the host of a registry, is of; ok is
// false for any other.
func ECRRegion(image string) (region string, ok bool) {
	host, _, _ := strings.Cut(image, "/")
	account, rest, _ := strings.Cut(strings.ToLower(host), ".")
	if len(account) != 12 || strings.Trim(account, "0123456789") != "" {
		return "", false
	}
	// <account>.dkr.ecr.<region>.amazonaws.com, and the newer form that has IPv6 too.
	for prefix, suffixes := range map[string][]string{
		"dkr.ecr": {".amazonaws.com", ".amazonaws.com.cn"},
		"dkr-ecr": {".on.aws", ".on.amazonwebservices.com.cn"},
	} {
		after, found := strings.CutPrefix(rest, prefix)
		if !found {
			continue
		}
		after = strings.TrimPrefix(after, "-fips")
		for _, suffix := range suffixes {
			if region, found = strings.CutSuffix(after, suffix); found && len(region) > 1 && region[0] == '.' && !strings.Contains(region[1:], ".") {
				return region[1:], true
			}
		}
	}
	return "", false
}
