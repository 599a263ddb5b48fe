// Package diagnose turns the evidence of a failed version into one Diagnosis. It is pure: the same evidence gives the
// same answer, and nothing is looked up.
//
// Order matters more than completeness: terminal evidence of the runtime before exits, exits before sockets, sockets
// before HTTP, and time last. The first container that failed is at fault; what failed after it is a consequence.
package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// Input is everything known of a version that failed.
type Input struct {
	Deployment *trysail.Deployment
	// Previous is the last ACTIVE deployment, nil if there was none.
	Previous *trysail.Deployment
	Power    trysail.Power
	// Pods are the version's pods, oldest first. Those that failed carry evidence.
	Pods []trysail.PodRecord
	// Image is why an image could not be had; nil if all were there.
	Image *trysail.ImageError
	// TookTooLong is true when the activation window closed; Window is how long it was.
	TookTooLong bool
	Window      time.Duration
}

// finding is a Diagnosis without what is the same for all: version and diff.
type finding struct {
	code       trysail.DiagnosisCode
	confidence trysail.Confidence
	container  string
	summary    string
	fix        string
	evidence   []trysail.Evidence
}

// Diagnose names the cause. Code is UNKNOWN when no rule matches; the evidence is there all the same.
func Diagnose(in Input) trysail.Diagnosis {
	f := find(in)
	d := trysail.Diagnosis{
		Version: in.Deployment.Version, Code: f.code, Confidence: f.confidence, ContainerName: f.container,
		Summary: f.summary, Fix: f.fix, Evidence: f.evidence, Diff: Diff(in.Previous, in.Deployment),
	}
	if d.Evidence == nil {
		d.Evidence = []trysail.Evidence{}
	}
	if d.Diff == nil {
		d.Diff = []trysail.Difference{}
	}
	return d
}

func find(in Input) finding {
	if in.Image != nil {
		return imageFinding(in)
	}
	// The last try is the freshest, and the one whose evidence is complete; earlier ones failed the same way or the
	// deployment would not have come to it.
	for _, pod := range slices.Backward(in.Pods) {
		if pod.Evidence == nil {
			continue
		}
		if c, ok := firstExit(pod.Evidence); ok {
			return exitFinding(in, pod, c)
		}
		if pod.Evidence.StartError != "" {
			return finding{
				code: "RUN-RUNTIME", confidence: trysail.Certain, summary: "Not your app: this machine's container runtime refused to start it.",
				fix: "Run `trysail doctor` on the machine.", evidence: []trysail.Evidence{{Kind: "runtime", Text: pod.Evidence.StartError}},
			}
		}
		if pod.Evidence.Lost {
			return finding{
				code: "NODE-LOST", confidence: trysail.Likely, summary: "The pod disappeared while it was starting: the machine restarted, or its processes were killed from outside.",
				fix: "Deploy again.",
			}
		}
		return healthFinding(in, pod)
	}
	if in.TookTooLong {
		return finding{
			code: "UNKNOWN", confidence: trysail.Likely, summary: fmt.Sprintf("No node was running after %s.", in.Window),
			fix: "Look at the log of trysail itself for what it waited for.",
		}
	}
	return finding{code: "UNKNOWN", confidence: trysail.Likely, summary: "No known cause matched.", fix: "Look at the container's log."}
}

func imageFinding(in Input) finding {
	f := finding{code: in.Image.Code, confidence: trysail.Certain, summary: in.Image.Message, fix: in.Image.Fix}
	for _, name := range in.Deployment.ContainerNames() {
		if in.Deployment.Containers[name].Image == in.Image.Image {
			f.container = name
			break
		}
	}
	if !in.Image.Final {
		f.confidence = trysail.Likely
	}
	if in.Image.Err != nil {
		f.evidence = append(f.evidence, trysail.Evidence{Kind: "image", Text: in.Image.Err.Error()})
	}
	return f
}

// firstExit returns the container that ended first.
func firstExit(e *trysail.PodEvidence) (first trysail.ContainerStatus, ok bool) {
	for _, c := range e.Containers {
		if c.State == trysail.ContainerExited && (!ok || c.FinishedAt.Before(first.FinishedAt)) {
			first, ok = c, true
		}
	}
	return first, ok
}

// logEvidence is the last lines of a container as evidence.
func logEvidence(e *trysail.PodEvidence, container string, n int) []trysail.Evidence {
	tail := e.LogTail[container]
	if len(tail) > n {
		tail = tail[len(tail)-n:]
	}
	if len(tail) == 0 {
		return []trysail.Evidence{{Kind: "log", Text: "(the container wrote nothing)"}}
	}
	return []trysail.Evidence{{Kind: "log", Text: strings.Join(tail, "\n")}}
}
