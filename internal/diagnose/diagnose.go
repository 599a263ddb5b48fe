// Package diagnose turns the evidence of a failed version into one Diagnosis. It is pure: the same evidence gives the
// same answer, and nothing is looked up.
//
// Order matters more than completeness: what Trysail itself decided, then images, then terminal evidence of the runtime
// before exits, exits before sockets, sockets before HTTP, and time last. The first container that failed is at fault; what
// failed after it is a consequence. What is certain rests on bytes, counters, sockets and typed errors; what a program
// wrote makes a cause likely.
//
// Everything that comes from outside (logs, answers, file names) is masked and bounded before it is put into a sentence:
// see masker.
package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose/lastwords"
)

// Input is everything known of a version that failed.
type Input struct {
	Deployment *trysail.Deployment
	// Previous is the last ACTIVE deployment, nil if there was none.
	Previous *trysail.Deployment
	Power    trysail.Power
	// Pods are the version's pods, oldest first. Those that failed carry evidence.
	Pods []trysail.PodRecord
	// Image is why an image could not be had; nil if all were there. Version.Pull is its stored form.
	Image *trysail.ImageError
	// TookTooLong is true when the activation window closed; Window is how long it was.
	TookTooLong bool
	Window      time.Duration
	// Version is what was seen of the version as a whole; nil if nothing was.
	Version *trysail.DeploymentEvidence
}

// finding is a Diagnosis without what is the same for all: version and diff.
type finding struct {
	code       trysail.DiagnosisCode
	confidence trysail.Confidence
	container  string
	summary    string
	fix        string
	evidence   []trysail.Evidence

	at   time.Time // when it happened; zero if unknown
	rank rank
	also []finding // what else was seen, that does not contradict
}

// rank is how strong evidence of a kind is. Lower is stronger.
type rank int

const (
	rankRuntime rank = iota // the runtime could not start it
	rankExit                // a container ended
	rankSocket              // who listens where
	rankHTTP                // what is answered
	rankTime                // how long it takes
	rankNone
)

// Diagnose names the cause. Code is UNKNOWN when no rule matches; the evidence is there all the same.
func Diagnose(in Input) trysail.Diagnosis {
	c := newCase(in)
	f := c.find()
	d := trysail.Diagnosis{
		Version: in.Deployment.Version, Code: f.code, Confidence: c.confidence(f), ContainerName: f.container,
		Summary: short(f.summary, maxSummary), Fix: short(f.fix, maxFix), Evidence: c.evidence(f), Diff: bounded(Diff(in.Previous, in.Deployment)),
		Also: c.findings(f.also),
	}
	if d.Diff == nil {
		d.Diff = []trysail.Difference{}
	}
	return d
}

// LogLook is how many of a container's last lines KeepLog can make use of.
const LogLook = lastwords.Look

// KeepLog chooses at most most of the last lines of a log: those that say why a program ended.
func KeepLog(lines []string, most int) []string { return lastwords.Keep(lines, most) }

// Final names the cause if it is certain and no further start can change it, so that the version may fail at once instead
// of being started again. It looks at what is known so far: images, autopsies and pods.
func Final(in Input) (d trysail.Diagnosis, ok bool) {
	if in.TookTooLong || in.Deployment == nil {
		return trysail.Diagnosis{}, false
	}
	c := newCase(in)
	f := c.find()
	if f.code == "UNKNOWN" {
		// Before anything was started the images speak. What runs is not argued with.
		if f, ok = c.autopsyFinding(); !ok || len(in.Pods) > 0 {
			return trysail.Diagnosis{}, false
		}
	}
	code, _ := known(f.code)
	if !code.Final || c.confidence(f) != trysail.Certain {
		return trysail.Diagnosis{}, false
	}
	if strings.HasPrefix(string(f.code), "IMG-") && in.Image != nil && !in.Image.Final {
		return trysail.Diagnosis{}, false
	}
	d = Diagnose(in)
	if d.Code != f.code {
		d.Code, d.Confidence, d.ContainerName, d.Summary, d.Fix, d.Evidence = f.code, c.confidence(f), f.container, short(f.summary, maxSummary), short(f.fix, maxFix), c.evidence(f)
		d.Also = nil
	}
	return d, true
}

// caseFile is one version that failed.
type caseFile struct {
	Input
	masker
}

func newCase(in Input) *caseFile {
	if in.Deployment == nil {
		in.Deployment = &trysail.Deployment{}
	}
	if in.Version == nil {
		in.Version = &trysail.DeploymentEvidence{}
	}
	return &caseFile{Input: in, masker: newMasker(in.Deployment, in.Previous)}
}

func (c *caseFile) find() finding {
	for _, rule := range []func() (finding, bool){c.decided, c.configuration, c.images, c.room} {
		if f, ok := rule(); ok {
			return f
		}
	}
	if f, ok := c.pods(); ok {
		return f
	}
	if f, ok := c.restarted(); ok {
		return f
	}
	if c.TookTooLong {
		return c.awaited()
	}
	return finding{code: "UNKNOWN", summary: "No known cause matched.", fix: "Look at the container's log.", rank: rankNone}
}

// hard are the kinds of evidence that make a finding certain.
var hard = []string{"exit", "image", "runtime", "counter", "socket", "probe", "trial", "reach", "machine", "record"}

// confidence never lets a finding be certain that rests on nothing but words.
func (c *caseFile) confidence(f finding) trysail.Confidence {
	if f.confidence != trysail.Certain || f.code == "UNKNOWN" {
		return trysail.Likely
	}
	for _, e := range f.evidence {
		if slices.Contains(hard, e.Kind) {
			return trysail.Certain
		}
	}
	return trysail.Likely
}

// evidence bounds what a finding rests on.
func (c *caseFile) evidence(f finding) []trysail.Evidence {
	list := []trysail.Evidence{}
	for _, e := range f.evidence {
		if e.Text = short(strings.ToValidUTF8(e.Text, "?"), maxEvidence); e.Text != "" && !slices.Contains(list, e) && len(list) < maxEntries {
			list = append(list, e)
		}
	}
	return list
}

// findings makes secondary findings presentable.
func (c *caseFile) findings(all []finding) (list []trysail.Finding) {
	for _, f := range all {
		if len(list) == maxAlso {
			break
		}
		list = append(list, trysail.Finding{
			Code: f.code, Confidence: c.confidence(f), ContainerName: f.container, Summary: short(f.summary, maxSummary), Fix: short(f.fix, maxFix), Evidence: c.evidence(f),
		})
	}
	return list
}

// prove adds evidence to a finding.
func (f *finding) prove(kind, format string, args ...any) {
	f.evidence = append(f.evidence, trysail.Evidence{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// add puts a secondary finding below f, unless it would say the same or the opposite: of one container, only one cause of
// each family can be true.
func (f *finding) add(others ...finding) {
	for _, o := range others {
		clash := o.code == "" || o.code == "UNKNOWN" || contradicts(*f, o)
		for _, have := range f.also {
			clash = clash || contradicts(have, o)
		}
		if !clash {
			o.also = nil
			f.also = append(f.also, o)
		}
	}
}

// contradicts reports whether two findings say the same or exclude each other. A pod's memory is one: there is one story
// about it, whichever container it is told of.
func contradicts(a, b finding) bool {
	same := family(a.code) == family(b.code)
	return a.code == b.code || same && (a.container == b.container || family(a.code) == "MEM")
}

func family(code trysail.DiagnosisCode) string {
	name, _, _ := strings.Cut(string(code), "-")
	return name
}

func bounded(diff []trysail.Difference) []trysail.Difference {
	diff = diff[:min(len(diff), maxDiff)]
	for i := range diff {
		diff[i].Field, diff[i].Before, diff[i].After = short(diff[i].Field, maxValue), short(diff[i].Before, maxValue), short(diff[i].After, maxValue)
	}
	return diff
}
