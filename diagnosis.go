package trysail

import "slices"

// DiagnosisCode is the short stable name of a cause, such as NET-LOOPBACK. People search for it, so it never changes.
type DiagnosisCode string

// DiagnosisOK is the code of a version that did not fail and has warnings.
const DiagnosisOK DiagnosisCode = "OK"

// Confidence says what a diagnosis rests on.
type Confidence string

// Certain rests on bytes, counters, sockets or typed errors; Likely on the text of logs.
const (
	Certain Confidence = "certain"
	Likely  Confidence = "likely"
)

// Diagnosis is the one cause of a failed deployment, with evidence and fix.
type Diagnosis struct {
	Version       int           `json:"version"`
	Code          DiagnosisCode `json:"code"`
	Confidence    Confidence    `json:"confidence"`
	ContainerName string        `json:"containerName,omitempty"` // empty when no single container is at fault
	Summary       string        `json:"summary"`                 // one sentence that a person understands
	Fix           string        `json:"fix"`                     // what to do about it
	Evidence      []Evidence    `json:"evidence"`
	Diff          []Difference  `json:"diff"` // to the last ACTIVE version
	// Also are further findings that do not contradict the cause; Warnings are about what works and yet should not stay
	// as it is.
	Also     []Finding `json:"also,omitempty"`
	Warnings []Finding `json:"warnings,omitempty"`
}

// maxWarnings is how many warnings a version keeps.
const maxWarnings = 12

// Warn adds a warning, or replaces the one with the same code of the same container. The oldest goes when there are too many.
func (d *Diagnosis) Warn(f Finding) {
	d.Warnings = slices.DeleteFunc(slices.Clone(d.Warnings), func(have Finding) bool {
		return have.Code == f.Code && have.ContainerName == f.ContainerName
	})
	d.Warnings = append(d.Warnings, f)
	d.Warnings = d.Warnings[max(0, len(d.Warnings)-maxWarnings):]
}

// Finding is something that was found out, with its own fix.
type Finding struct {
	Code          DiagnosisCode `json:"code"`
	Confidence    Confidence    `json:"confidence"`
	ContainerName string        `json:"containerName,omitempty"`
	Summary       string        `json:"summary"`
	Fix           string        `json:"fix,omitempty"`
	Evidence      []Evidence    `json:"evidence,omitempty"`
}

// Evidence is one recorded fact that a diagnosis rests on.
type Evidence struct {
	Kind string `json:"kind"` // "exit", "log", "probe", "image", …
	Text string `json:"text"`
}

// Difference is one field that changed since the last ACTIVE version. Values of environment variables are masked.
type Difference struct {
	Field  string `json:"field"`
	Before string `json:"before"`
	After  string `json:"after"`
}
