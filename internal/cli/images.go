package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/spf13/cobra"
)

// nodeImages is what takes up room on the machine, and why.
type nodeImages struct {
	Images []struct {
		Name   string   `json:"name"`
		Digest string   `json:"digest"`
		Size   int64    `json:"size"`
		Stored bool     `json:"stored"`
		Kept   []string `json:"kept"`
	} `json:"images"`
	RegistryBytes int64 `json:"registryBytes"`
	UnusedBytes   int64 `json:"unusedBytes"`
}

func (a *App) imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images [SERVICE]",
		Short: "List the images of a service, or of the whole machine",
		Long: `List the images that were pushed to a service, newest first. Without a SERVICE: the images that take up room on the
server's machine, largest first, and why each is kept. An image that nothing needs is removed within the hour.`,
		Example: `  trysail images web
  trysail images
  trysail images delete :web.www.3`,
		Args:              rangeArgs(0, "SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	cmd.AddCommand(a.deleteImageCommand())
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		if len(args) == 0 {
			var out nodeImages
			if err := c.call(ctx, "ListNodeImages", struct{}{}, &out); err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, out)
			}
			return printNodeImages(a.screen(a.Out), out)
		}
		out, err := c.GetContainerImages(ctx, &lightsail.GetContainerImagesInput{ServiceName: &args[0]})
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, map[string]any{"containerImages": wire(out.ContainerImages)})
		}
		if len(out.ContainerImages) == 0 {
			fmt.Fprintf(a.Err, "No image was pushed to service %s. Push one with: trysail push IMAGE --service %s --label LABEL\n", clean(args[0]), clean(args[0]))
			return nil
		}
		var rows [][]string
		for _, img := range out.ContainerImages {
			rows = append(rows, []string{clean(aws.ToString(img.Image)), when(img.CreatedAt), shortDigest(aws.ToString(img.Digest))})
		}
		return a.screen(a.Out).table([]string{"IMAGE", "REGISTERED", "DIGEST"}, rows)
	})
}

func printNodeImages(s screen, out nodeImages) error {
	var rows [][]string
	for _, img := range out.Images {
		place := "unpacked"
		if img.Stored {
			place = "registry"
		}
		kept := strings.Join(img.Kept, ", ")
		if kept == "" {
			kept = "nothing needs it"
		}
		rows = append(rows, []string{clean(img.Name), shortDigest(img.Digest), megabytes(img.Size), place, clean(kept)})
	}
	if err := s.table([]string{"IMAGE", "DIGEST", "SIZE", "PLACE", "KEPT FOR"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(s, "\nThe registry holds %s. Not needed and removed in time: %s.\n", megabytes(out.RegistryBytes), megabytes(out.UnusedBytes))
	return nil
}

func shortDigest(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return clean(hex[:min(len(hex), 12)])
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func (a *App) deleteImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "delete :SERVICE.LABEL.N",
		Short:             "Take an image off its service",
		Long:              "Take an image off its service. An image that the current deployment runs stays. Old versions keep what they need.",
		Example:           `  trysail images delete :web.www.3`,
		Args:              exactArgs(":SERVICE.LABEL.N"),
		ValidArgsFunction: inOrder(a.imageNames()),
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		service, _, ok := strings.Cut(strings.TrimPrefix(args[0], ":"), ".")
		if !ok || !strings.HasPrefix(args[0], ":") {
			return Usagef("%q is not the name of an image; it looks like :web.www.3", args[0])
		}
		if _, err := c.DeleteContainerImage(ctx, &lightsail.DeleteContainerImageInput{ServiceName: &service, Image: &args[0]}); err != nil {
			return err
		}
		return a.done(asJSON, "Image %s is deleted.", clean(args[0]))
	})
}
