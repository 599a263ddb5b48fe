package cri_test

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// addFile is the image with a layer more, which has one file.
func addFile(tb testing.TB, image v1.Image, name, text string) v1.Image {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		tb.Fatal(err)
	}
	image, err = mutate.AppendLayers(image, layer)
	if err != nil {
		tb.Fatal(err)
	}
	return image
}

func TestEngine_ExamineSeesWhatWouldFail(t *testing.T) {
	var _ engine.Examiner = newRig(t, nil).engine
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	foreign := append([]byte{}, binary...)
	foreign[18] = 0xf3 // e_machine: RISC-V, which nobody's tests run on
	host, _ := serve(t)
	good := push(t, host+"/test/good:1", makeImage(t, binary, "/program", "--entry"))
	// Two layers, of which the upper one changes the program.
	script := push(t, host+"/test/script:1", addFile(t, makeImage(t, binary, "/program"), "program", "#!/bin/sh\r\necho hello\r\n"))
	wrong := push(t, host+"/test/foreign:1", makeImage(t, foreign, "/program"))
	r := newRig(t, nil)
	for name, tc := range map[string]struct {
		image   string
		command []string
		code    trysail.DiagnosisCode // "" for nothing certain
	}{
		"healthy":        {good, nil, ""},
		"wrong machine":  {wrong, nil, "IMG-BIN-ARCH"},
		"line ends":      {script, nil, "RUN-CRLF"},
		"other command":  {good, []string{"x"}, ""},
		"absent program": {push(t, host+"/test/absent:1", makeImage(t, binary, "/nope")), nil, "RUN-NOFILE"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := r.engine.Prepare(t.Context(), tc.image); err != nil {
				t.Fatal(err)
			}
			got, err := r.engine.Examine(t.Context(), trysail.ContainerSpec{Name: "app", Image: tc.image, Command: tc.command}, []int{80})
			if err != nil {
				t.Fatal(err)
			}
			var codes []string
			for _, f := range got.Findings {
				if f.Confidence == trysail.Certain {
					codes = append(codes, string(f.Code))
				}
			}
			if strings.Join(codes, " ") != string(tc.code) {
				t.Errorf("certain: %q, want %q; all of it: %+v", codes, tc.code, got)
			}
		})
	}
	if _, err := r.engine.Examine(t.Context(), trysail.ContainerSpec{Image: host + "/test/never@sha256:" + strings.Repeat("0", 64)}, nil); err == nil {
		t.Error("an image that is not here was examined")
	}
}
