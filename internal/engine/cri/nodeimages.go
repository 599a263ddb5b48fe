package cri

import (
	"context"
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
)

// Images lists the images that are unpacked on this machine, without those that the engine itself needs.
func (e *Engine) Images(ctx context.Context) ([]trysail.NodeImage, error) {
	resp, err := e.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var list []trysail.NodeImage
	for _, i := range resp.Images {
		if i.Pinned {
			continue
		}
		img := trysail.NodeImage{Name: i.Id, Digest: i.Id, Size: int64(i.Size)} //nolint:gosec // no image has 8 EiB
		if len(i.RepoDigests) > 0 {
			img.Name, img.Digest, _ = strings.Cut(i.RepoDigests[0], "@")
		}
		list = append(list, img)
	}
	return list, nil
}
