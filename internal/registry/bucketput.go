package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// sending is how many parts of a blob are sent at the same time.
const sending = 4

// put sends the file and removes it. If that does not work, the file stays, and so does nothing of it in the bucket but
// parts that tidy removes.
func (b *bucket) put(ctx context.Context, d digest, path string) error {
	if _, err := b.stat(ctx, d); err == nil {
		return errors.Join(b.touch(ctx, d), os.Remove(path))
	}
	f, err := os.Open(path) //nolint:gosec // the name is ours
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= b.cfg.PartSize {
		_, err = b.api.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.cfg.Name, Key: b.key(d), Body: f, ContentLength: aws.Int64(info.Size())})
	} else {
		err = b.putParts(ctx, d, f, info.Size())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	// What was acknowledged is there, whole.
	if stored, err := b.stat(ctx, d); err != nil || stored.size != info.Size() {
		return errors.Join(fmt.Errorf("%w: it has %d of %d bytes there", errStorage, stored.size, info.Size()), err)
	}
	return os.Remove(path)
}

// putParts sends a large file in parts.
func (b *bucket) putParts(ctx context.Context, d digest, f io.ReaderAt, size int64) (err error) {
	begun, err := b.api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b.cfg.Name, Key: b.key(d)})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, failed := b.api.AbortMultipartUpload(context.WithoutCancel(ctx), &s3.AbortMultipartUploadInput{Bucket: &b.cfg.Name, Key: b.key(d), UploadId: begun.UploadId})
			err = errors.Join(err, failed)
		}
	}()
	var (
		mu    sync.Mutex // guards parts
		parts []types.CompletedPart
	)
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(sending)
	for number, at := int32(1), int64(0); at < size; number, at = number+1, at+b.cfg.PartSize {
		group.Go(func() error {
			n := min(b.cfg.PartSize, size-at)
			out, err := b.api.UploadPart(each, &s3.UploadPartInput{
				Bucket: &b.cfg.Name, Key: b.key(d), UploadId: begun.UploadId, PartNumber: aws.Int32(number), Body: io.NewSectionReader(f, at, n), ContentLength: aws.Int64(n),
			})
			if err != nil {
				return fmt.Errorf("sending part %d: %w", number, err)
			}
			mu.Lock()
			defer mu.Unlock()
			parts = append(parts, types.CompletedPart{ETag: out.ETag, PartNumber: aws.Int32(number)})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(parts, func(x, y types.CompletedPart) int { return cmp.Compare(*x.PartNumber, *y.PartNumber) })
	_, err = b.api.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &b.cfg.Name, Key: b.key(d), UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}
