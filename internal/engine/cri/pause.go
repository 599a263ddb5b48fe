package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/trysail/trysail/internal/engine"
)

// pauseImage is the image of the process that holds a pod's namespaces. Its number goes up when its content changes.
const pauseImage = "pause.trysail.internal/pause:1"

// pauseCode is a program that waits for a signal, for ever, by architecture.
func pauseCode(arch string) (machine uint16, code []byte, err error) {
	switch arch {
	case "amd64":
		return 62, []byte{
			0xb8, 34, 0, 0, 0, // mov eax, 34 (pause)
			0x0f, 0x05, //        syscall
			0xeb, 0xf7, //        jmp to the beginning
		}, nil
	case "arm64":
		// arm64 has no pause; ppoll of no files without a timeout is the same.
		return 183, []byte{
			0x00, 0x00, 0x80, 0xd2, // mov x0, #0
			0x01, 0x00, 0x80, 0xd2, // mov x1, #0
			0x02, 0x00, 0x80, 0xd2, // mov x2, #0
			0x03, 0x00, 0x80, 0xd2, // mov x3, #0
			0x04, 0x00, 0x80, 0xd2, // mov x4, #0
			0x28, 0x09, 0x80, 0xd2, // mov x8, #73 (ppoll)
			0x01, 0x00, 0x00, 0xd4, // svc #0
			0xf9, 0xff, 0xff, 0x17, // b to the beginning
		}, nil
	}
	return 0, nil, fmt.Errorf("no pause program for %s", arch)
}

// pauseELF is the smallest executable around the program: an ELF header, one segment, the code.
func pauseELF(arch string) ([]byte, error) {
	machine, code, err := pauseCode(arch)
	if err != nil {
		return nil, err
	}
	const (
		base       = 0x400000 // where the file is mapped
		headerSize = 64
		segmentEnt = 56
	)
	size := uint64(headerSize + segmentEnt + len(code))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}) // 64 bits, little endian
	for _, v := range []any{
		uint16(2), machine, uint32(1), // executable
		uint64(base + headerSize + segmentEnt), // entry
		uint64(headerSize), uint64(0),          // program headers; no section headers
		uint32(0), uint16(headerSize), uint16(segmentEnt), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), // load, readable and executable
		uint64(0), uint64(base), uint64(base), size, size, uint64(0x10000),
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	b.Write(code)
	return b.Bytes(), nil
}

// blob is a piece of an image.
type blob struct {
	mediaType string
	digest    string
	content   []byte
}

func newBlob(mediaType string, content []byte) blob {
	sum := sha256.Sum256(content)
	return blob{mediaType, "sha256:" + hex.EncodeToString(sum[:]), content}
}

func (b blob) descriptor() map[string]any {
	return map[string]any{"mediaType": b.mediaType, "digest": b.digest, "size": len(b.content)}
}

// pauseBlobs are the image's manifest, config and layer. They are the same whenever they are made.
func pauseBlobs(arch string) (manifest, config, layer blob, err error) {
	program, err := pauseELF(arch)
	if err != nil {
		return manifest, config, layer, err
	}
	var t bytes.Buffer
	w := tar.NewWriter(&t)
	err = errors.Join(
		w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}),
		func() error { _, err := w.Write(program); return err }(),
		w.Close(),
	)
	if err != nil {
		return manifest, config, layer, err
	}
	layer = newBlob("application/vnd.oci.image.layer.v1.tar", t.Bytes())
	c, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer.digest}},
	})
	if err != nil {
		return manifest, config, layer, err
	}
	config = newBlob("application/vnd.oci.image.config.v1+json", c)
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config.descriptor(), "layers": []any{layer.descriptor()},
	})
	manifest = newBlob("application/vnd.oci.image.manifest.v1+json", m)
	return manifest, config, layer, err
}

// pauseSupply is an engine.Images that has the pause image alone.
type pauseSupply struct {
	manifest blob
	parts    []blob
	dir      string // for the files that it makes
}

// Manifest implements engine.Images.
func (s pauseSupply) Manifest(context.Context, string) (mediaType string, content []byte, err error) {
	return s.manifest.mediaType, s.manifest.content, nil
}

// Blob implements engine.Images.
func (s pauseSupply) Blob(_ context.Context, _ string, want engine.Descriptor, _ func(int64)) (engine.File, error) {
	for _, b := range s.parts {
		if b.digest != want.Digest {
			continue
		}
		path := filepath.Join(s.dir, "pause-"+rand.Text())
		return engine.File{Path: path, Release: func() { _ = os.Remove(path) }}, os.WriteFile(path, b.content, 0o600)
	}
	return engine.File{}, fmt.Errorf("the pause image has no %s", want.Digest)
}

// ensurePause makes the pause image present. CRI marks it as one that is never removed.
func (e *Engine) ensurePause(ctx context.Context) error {
	if present, err := e.imagePresent(ctx, pauseImage); err != nil || present {
		return err
	}
	manifest, config, layer, err := pauseBlobs(runtime.GOARCH)
	if err != nil {
		return err
	}
	supply := pauseSupply{manifest: manifest, parts: []blob{config, layer}, dir: e.cfg.linkDir()}
	return e.importImage(ctx, pauseImage, supply, new(progress))
}
