// Package broken is the deployments that fail, each with the verdict that it must get: at least one for each code that can be
// brought about on one machine. What goes wrong in them really goes wrong: the images are what a build would leave, and the
// programs in them crash, eat memory and bind ports. They can be run against other platforms as well.
package broken

import (
	"slices"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/test/corpus"
)

// Cases are all of them. Names are the names of services, too.
func Cases() []corpus.Case {
	return slices.Concat(images(), starts(), exits(), limits(), dependencies(), network(), health(), platform(), combined(), notHere())
}

// certain and likely are short for the tables.
const (
	certain = trysail.Certain
	likely  = trysail.Likely
)

// good is a version that works.
func good() *corpus.Deployment {
	d := corpus.Web("serve")
	return &d
}

// before is a version that works, with an environment.
func before(env ...string) *corpus.Deployment {
	d := good().Env(env...)
	return &d
}

// notHere are the codes that cannot be brought about on a machine for tests.
func notHere() []corpus.Case {
	var list []corpus.Case
	for _, n := range []struct {
		code trysail.DiagnosisCode
		why  string
	}{
		{"MEM-HOST", "the whole machine would have to run out of memory, and the kernel chooses whom it kills"},
		{"MEM-CRAWL", "it rests on pressure counters, which the kernel keeps for cgroups of version 2 only, and on a disk to swap to"},
		{"RUN-SECRET", "deployments cannot name secrets yet"},
		{"RUN-MOUNT", "deployments cannot name volumes yet"},
		{"CERT-DNS", "needs a public domain"},
		{"CERT-CAA", "needs a public domain"},
		{"CERT-80", "needs a public address"},
		{"SUPERSEDED", "a service takes no deployment while another one is under way, as on AWS"},
		{"NET-LOWPORT", "containers may open every port, whoever their user is (net.ipv4.ip_unprivileged_port_start)"},
	} {
		list = append(list, corpus.Case{Name: "not-here", Code: n.code, Place: corpus.Nowhere, Why: n.why})
	}
	return list
}
