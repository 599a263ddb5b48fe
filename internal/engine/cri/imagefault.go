package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// corruptError says that the content of an image is not that of an image.
type corruptError struct{ what string }

func (e *corruptError) Error() string { return "corrupt image: " + e.what }

// isCorrupt is true if the image itself is the reason. Containerd says so in prose.
func isCorrupt(err error) bool {
	if err == nil || isDiskFull(err) {
		return false
	}
	if _, ok := errors.AsType[*corruptError](err); ok {
		return true
	}
	return containsAny(err.Error(), "failed to extract layer", "wrong diff id", "diffIDs don't match", "unmarshal image config")
}

func isDiskFull(err error) bool {
	return err != nil && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || containsAny(err.Error(), "no space left on device", "disk quota exceeded"))
}

// isGone is true if containerd went away in the middle.
func isGone(err error) bool {
	return errors.Is(err, engine.ErrUnavailable) || errdefs.IsUnavailable(err) || errors.Is(err, io.EOF) && !isCorrupt(err) || isSilence(err)
}

func containsAny(text string, parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(text, p) {
			return true
		}
	}
	return false
}

// pullFault turns an error of importImage into one that says what to do. What says nothing about the image stays what
// it is.
func (e *Engine) pullFault(ctx context.Context, image string, p *pull, err error) error {
	if _, ok := errors.AsType[*trysail.ImageError](err); ok {
		return err
	}
	fault := func(code trysail.DiagnosisCode, message, fix string) error {
		return &trysail.ImageError{Code: code, Image: image, Message: message, Fix: fix, Err: err}
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fault("IMG-SLOW", slowness(image, p.progress.get(), time.Since(p.began)), "Use a smaller image, or look at the network between this machine and the registry.")
	case isGone(err) || ctx.Err() != nil || errors.Is(err, context.Canceled):
		return fmt.Errorf("pulling %s: %w: %w", image, engine.ErrUnavailable, err)
	case isDiskFull(err):
		return fault("IMG-DISK", fmt.Sprintf("The disk is full, so the image %s cannot be unpacked.", image), "Free space, or remove images that are not needed: trysail images.")
	case isCorrupt(err):
		return fault("IMG-CORRUPT", fmt.Sprintf("The image %s cannot be unpacked: %s.", image, reason(err)), "Build it again and push it.")
	default:
		e.log.ErrorContext(ctx, "an image could not be put in place", "image", image, "error", err)
		return fault("IMG-PULL", fmt.Sprintf("The image %s could not be put in place.", image), "See the server's log, and containerd's.")
	}
}

// reason is the part of an error of the unpacking that speaks of the image.
func reason(err error) string {
	if e, ok := errors.AsType[*corruptError](err); ok {
		return e.what
	}
	text := strings.TrimSuffix(err.Error(), ": unknown")
	if i := strings.LastIndex(text, "\" as \""); i >= 0 { // failed to extract layer (type digest) to overlayfs as "key": why
		text = text[i:]
	}
	if _, why, ok := strings.Cut(text, "\": "); ok {
		text = why
	}
	const most = 200
	return text[:min(len(text), most)]
}

// slowness says how far a pull came.
func slowness(image string, p trysail.Progress, took time.Duration) string {
	const mb = 1 << 20
	text := fmt.Sprintf("Pulling %s was given up after %s with %d of %d MB", image, took.Round(time.Second), p.Done/mb, p.Total/mb)
	if rate := float64(p.Done) / took.Seconds(); rate > 0 && p.Total > p.Done {
		text += fmt.Sprintf(", at %.1f MB/s; it would need %s more", rate/mb, (time.Duration(float64(p.Total-p.Done)/rate) * time.Second).Round(time.Second))
	}
	return text + "."
}
