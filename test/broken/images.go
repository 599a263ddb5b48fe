package broken

import "github.com/trysail/trysail/test/corpus"

// images are images that cannot be had.
func images() []corpus.Case {
	return []corpus.Case{
		{Name: "image-name", Deployment: corpus.WebImage("=Shop/Web:1"), Outcome: corpus.Refused, Code: "IMG-NAME", Says: "Shop/Web:1", Quick: true},
		{Name: "image-repo", Deployment: corpus.WebImage("nothing/here:1"), Outcome: corpus.Refused, Code: "IMG-REPO", Says: "nothing/here", Quick: true},
		{Name: "image-private", Deployment: corpus.WebImage("@private/shop/web:1"), Outcome: corpus.Refused, Code: "IMG-REPO", Says: "private", Quick: true},
		{Name: "image-tag", Deployment: corpus.WebImage("misbehave:2"), Outcome: corpus.Refused, Code: "IMG-TAG", Says: "tag", Quick: true},
		{Name: "image-local", Deployment: corpus.WebImage(":image-local.web.7"), Outcome: corpus.Refused, Code: "IMG-LOCAL", Says: "image-local", Quick: true},
		{Name: "image-login", Deployment: corpus.WebImage("@login/shop/web:1"), Outcome: corpus.Refused, Code: "IMG-AUTH", Says: "login", Quick: true},
		{Name: "image-forbidden", Deployment: corpus.WebImage("@forbidden/shop/web:1"), Outcome: corpus.Refused, Code: "IMG-REPO"},
		{Name: "image-rate", Deployment: corpus.WebImage("@limit/shop/web:1"), Code: "IMG-RATE", Fix: "login", Confidence: certain, Quick: true},
		{Name: "image-dns", Deployment: corpus.WebImage("@unknown/shop/web:1"), Code: "IMG-DNS", Says: "registry.trysail.invalid", Confidence: certain, Quick: true},
		{Name: "image-refused", Deployment: corpus.WebImage("@closed/shop/web:1"), Code: "IMG-NET", Says: "refused", Confidence: certain, Quick: true},
		{Name: "image-error", Deployment: corpus.WebImage("@broken/shop/web:1"), Code: "IMG-NET", Says: "500", Confidence: likely},
		{Name: "image-hang", Deployment: corpus.WebImage("@hang/shop/web:1"), Code: "IMG-SLOW", Says: "did not answer", Confidence: likely},
		{Name: "image-tls", Deployment: corpus.WebImage("@tls/shop/web:1"), Code: "IMG-TLS", Says: "sign", Fix: "ca", Confidence: certain, Quick: true},
		{Name: "image-arch", Deployment: corpus.WebImage("arm:1"), Outcome: corpus.Refused, Code: "IMG-ARCH", Says: "arm64", Fix: "--platform", Quick: true},
		{Name: "image-arch-index", Deployment: corpus.WebImage("armindex:1"), Outcome: corpus.Refused, Code: "IMG-ARCH", Says: "arm64", Fix: "--platform", Quick: true},
		{Name: "image-bin-arch", Deployment: corpus.WebImage("armbinary:1"), Code: "IMG-BIN-ARCH", Says: "arm64", Fix: "build", Confidence: certain, Quick: true},
		{Name: "image-disk", Deployment: corpus.WebImage("fat:1"), Place: corpus.SmallDisk, Code: "IMG-DISK", Says: "disk", Confidence: certain},
		{Name: "image-corrupt", Deployment: corpus.WebImage("@garbage/one:1"), Code: "IMG-CORRUPT", Fix: "push", Quick: true},
		{Name: "image-truncated", Deployment: corpus.WebImage("@truncated/two:1"), Code: "IMG-NET", Says: "cut"},
		{Name: "image-not-registry", Deployment: corpus.WebImage("@teapot/misbehave:1"), Code: "IMG-CORRUPT"},
		{Name: "image-slow", Deployment: corpus.WebImage("@slow/three:1"), Code: "IMG-SLOW", Confidence: likely},
	}
}
