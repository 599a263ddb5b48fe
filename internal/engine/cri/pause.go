package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// pauseRegistry is a registry that exists only for the moment in which containerd pulls the image.
	pauseRegistry = "pause.trysail.internal"
	// pauseImage is the image of the process that holds a pod's namespaces. Its number goes up when its content changes.
	pauseImage = pauseRegistry + "/pause:1"
)

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

// blob is a piece of an image, as a registry serves it.
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

// pauseHandler serves the image as a registry does.
func pauseHandler(arch string) (http.Handler, error) {
	manifest, config, layer, err := pauseBlobs(arch)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	serve := func(path string, b blob) {
		mux.HandleFunc("GET /v2/pause/"+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", b.mediaType)
			w.Header().Set("Docker-Content-Digest", b.digest)
			w.Header().Set("Content-Length", fmt.Sprint(len(b.content)))
			_, _ = w.Write(b.content)
		})
	}
	serve("manifests/1", manifest)
	serve("manifests/"+manifest.digest, manifest)
	serve("blobs/"+config.digest, config)
	serve("blobs/"+layer.digest, layer)
	mux.HandleFunc("GET /v2/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.NotFound(w, r)
		}
	})
	return mux, nil
}

// ensurePause makes the pause image present. Containerd can be given an image through CRI only by way of a registry, so
// one is served on a loopback port for as long as the pull takes.
func (e *Engine) ensurePause(ctx context.Context) error {
	if present, err := e.imagePresent(ctx, pauseImage); err != nil || present {
		return err
	}
	handler, err := pauseHandler(runtime.GOARCH)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	defer func() {
		_ = server.Close()
		<-served
	}()
	dir := filepath.Join(e.cfg.certsDir(), pauseRegistry)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	hosts := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", l.Addr(), l.Addr())
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o600); err != nil {
		return err
	}
	_, err = e.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: pauseImage}})
	return err
}
