package cli

import (
	"bytes"
	"testing"

	"github.com/trysail/trysail"
)

func TestPrintDiagnosis_ShowsWhatElseWasFound(t *testing.T) {
	var b bytes.Buffer
	printDiagnosis(screen{Writer: &b}, &trysail.Diagnosis{
		Code: "NET-WRONGPORT", Confidence: trysail.Certain, ContainerName: "web", Summary: "It listens elsewhere.", Fix: "Set the port.",
		Also:     []trysail.Finding{{Code: "DRAIN-KILL", Summary: "It ignores SIGTERM.", Fix: "Use exec."}},
		Warnings: []trysail.Finding{{Code: "HC-DEFAULT", Summary: "404 counts as healthy.\x1b[31m"}},
	})
	want := "Container web: It listens elsewhere.\nFix: Set the port.\nCode: NET-WRONGPORT (certain)\n" +
		"\nAlso:\n  DRAIN-KILL  It ignores SIGTERM. Use exec.\n" +
		"\nWarnings:\n  HC-DEFAULT  404 counts as healthy."
	if got := b.String(); len(got) < len(want) || got[:len(want)] != want || bytes.Contains(b.Bytes(), []byte{0x1b}) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
