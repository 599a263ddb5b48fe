package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	awshttp "github.com/aws/smithy-go/transport/http"
)

// Bucket says where blobs are kept in a store that speaks S3.
type Bucket struct {
	Name   string
	Prefix string // of all keys; empty, or without a slash at the end
	// Endpoint is the address of the server, http:// or https://; empty means Amazon's.
	Endpoint string
	Region   string
	// KeyID, Secret and Session are the credentials.
	KeyID, Secret, Session string
	// PartSize is in how large parts blobs are sent, in bytes. Zero means 16 MiB.
	PartSize int64
}

// ParseBucket reads s3://bucket[/prefix][?endpoint=http://…&region=…]. getenv has the credentials, AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY, perhaps AWS_SESSION_TOKEN, and AWS_REGION. Errors are for the operator.
func ParseBucket(text string, getenv func(string) string) (*Bucket, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("it is not s3://BUCKET/PREFIX?endpoint=https://HOST:PORT")
	}
	query := u.Query()
	b := &Bucket{
		Name: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: query.Get("endpoint"), Region: cmp.Or(query.Get("region"), getenv("AWS_REGION"), "us-east-1"),
		KeyID: getenv("AWS_ACCESS_KEY_ID"), Secret: getenv("AWS_SECRET_ACCESS_KEY"), Session: getenv("AWS_SESSION_TOKEN"),
	}
	for name := range query {
		if name != "endpoint" && name != "region" {
			return nil, fmt.Errorf("%q is not a setting of it; there are endpoint and region", name)
		}
	}
	if e, err := url.Parse(b.Endpoint); b.Endpoint != "" && (err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" || e.User != nil) {
		return nil, errors.New("its endpoint is not http://HOST:PORT or https://HOST:PORT")
	}
	if b.KeyID == "" || b.Secret == "" {
		return nil, errors.New("the credentials are missing: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")
	}
	return b, nil
}

const (
	// defaultPart is in how large parts a blob is sent. There may be 10,000, so blobs have up to 160 GB.
	defaultPart = 16 << 20
	// bucketTries is how often one request to the store is sent.
	bucketTries = 4
	// answerTime is how long it may take to begin its answer.
	answerTime = time.Minute
	// listed is how many blobs are looked at together: sweeping holds up pushes.
	listed = 100
)

// errStorage is why a blob could not be stored although what was received is good: it may be tried again.
var errStorage = errors.New("the store of blobs does not take it")

// bucket keeps blobs as objects: <prefix>/blobs/<algorithm>/<hex>. An object appears when all of it is there.
type bucket struct {
	api   *s3.Client
	cfg   Bucket
	cache cache
	// lazy is how old a blob gets before touching it does something.
	lazy time.Duration
}

// openBucket looks whether the bucket is there.
func openBucket(ctx context.Context, cfg Bucket, cacheDir string, grace time.Duration) (*bucket, error) {
	cfg.PartSize = cmp.Or(cfg.PartSize, defaultPart)
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck,forcetypeassert // is one unless the program replaces it
	transport.ResponseHeaderTimeout, transport.MaxIdleConnsPerHost = answerTime, 64
	b := &bucket{cfg: cfg, cache: cache{dir: cacheDir}, lazy: grace / 2}
	b.api = s3.New(s3.Options{
		Region: cfg.Region, BaseEndpoint: nilIfEmpty(cfg.Endpoint), UsePathStyle: cfg.Endpoint != "", AppID: "trysail", HTTPClient: &http.Client{Transport: transport},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: cfg.KeyID, SecretAccessKey: cfg.Secret, SessionToken: cfg.Session}, nil
		}),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = bucketTries, 2*time.Second }),
		// Servers other than Amazon's do not know the newer checksums; the content is signed by its SHA-256.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return nil, err
	}
	if _, err := b.api.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.cfg.Name}); err != nil {
		return nil, fmt.Errorf("looking for bucket %s: %w", cfg.Name, plainS3(err))
	}
	return b, nil
}

func nilIfEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// plainS3 makes an error of the store what it says about: fs.ErrNotExist, or a short text.
func plainS3(err error) error {
	if err == nil {
		return nil
	}
	if answer, ok := errors.AsType[*awshttp.ResponseError](err); ok && answer.HTTPStatusCode() == http.StatusNotFound {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() == "NoSuchKey" {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

func (b *bucket) root() string {
	if b.cfg.Prefix == "" {
		return "blobs/"
	}
	return b.cfg.Prefix + "/blobs/"
}

func (b *bucket) key(d digest) *string { return aws.String(b.root() + d.algorithm + "/" + d.hex) }

func (b *bucket) stat(ctx context.Context, d digest) (blobInfo, error) {
	out, err := b.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.cfg.Name, Key: b.key(d)})
	if err != nil {
		return blobInfo{}, plainS3(err)
	}
	return blobInfo{d, aws.ToInt64(out.ContentLength), aws.ToTime(out.LastModified)}, nil
}

// touch copies the object onto itself, which is the only way to change its time, unless it is young enough.
func (b *bucket) touch(ctx context.Context, d digest) error {
	info, err := b.stat(ctx, d)
	if err != nil || time.Since(info.young) < b.lazy {
		return err
	}
	_, err = b.api.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &b.cfg.Name, Key: b.key(d), CopySource: aws.String(url.PathEscape(b.cfg.Name) + "/" + escapePath(*b.key(d))), MetadataDirective: "REPLACE",
		Metadata: map[string]string{"touched": time.Now().UTC().Format(time.RFC3339)},
	})
	return plainS3(err)
}

func escapePath(key string) string {
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

func (b *bucket) open(ctx context.Context, d digest) (io.ReadSeekCloser, error) {
	info, err := b.stat(ctx, d)
	if err != nil {
		return nil, err
	}
	return &object{ctx: ctx, bucket: b, key: b.key(d), size: info.size}, nil
}

// file fetches the blob into the cache, unless it is there.
func (b *bucket) file(ctx context.Context, d digest) (path string, size int64, err error) {
	return b.cache.get(ctx, d, func(w io.Writer) error {
		f, err := b.open(ctx, d)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		return errors.Join(err, f.Close())
	})
}

func (b *bucket) each(ctx context.Context, fn func([]blobInfo) error) error {
	pages := s3.NewListObjectsV2Paginator(b.api, &s3.ListObjectsV2Input{Bucket: &b.cfg.Name, Prefix: aws.String(b.root()), MaxKeys: aws.Int32(listed)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("listing the blobs: %w", err)
		}
		var list []blobInfo
		for _, o := range page.Contents {
			algorithm, hex, _ := strings.Cut(strings.TrimPrefix(aws.ToString(o.Key), b.root()), "/")
			if d, err := parseDigest(algorithm + ":" + hex); err == nil {
				list = append(list, blobInfo{d, aws.ToInt64(o.Size), aws.ToTime(o.LastModified)})
			}
		}
		if err := fn(list); err != nil {
			return err
		}
	}
	return nil
}

func (b *bucket) discard(ctx context.Context, d digest) (finish func() error, err error) {
	_, err = b.api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.cfg.Name, Key: b.key(d)})
	return func() error { return b.cache.remove(d) }, plainS3(err)
}

// tidy gives up the sending of blobs that ended with its process, and forgets copies that nobody has used.
func (b *bucket) tidy(ctx context.Context, until time.Time) error {
	pages := s3.NewListMultipartUploadsPaginator(b.api, &s3.ListMultipartUploadsInput{Bucket: &b.cfg.Name, Prefix: aws.String(b.root())})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("listing unfinished uploads: %w", err)
		}
		for _, u := range page.Uploads {
			if aws.ToTime(u.Initiated).After(until) {
				continue
			}
			if _, err := b.api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.cfg.Name, Key: u.Key, UploadId: u.UploadId}); plainS3(err) != nil && !errors.Is(plainS3(err), fs.ErrNotExist) {
				return fmt.Errorf("giving up an unfinished upload: %w", err)
			}
		}
	}
	return b.cache.tidy(until)
}

// object reads an object, from anywhere in it. A connection that breaks is made again where it was.
type object struct {
	ctx    context.Context //nolint:containedctx // of the request that reads
	bucket *bucket
	key    *string
	size   int64
	at     int64         // of the next Read
	body   io.ReadCloser // at at; nil if there is none
	broken int
}

// Read reads on.
func (o *object) Read(p []byte) (int, error) {
	for {
		if o.at >= o.size {
			return 0, io.EOF
		}
		if o.body == nil {
			out, err := o.bucket.api.GetObject(o.ctx, &s3.GetObjectInput{Bucket: &o.bucket.cfg.Name, Key: o.key, Range: aws.String(fmt.Sprintf("bytes=%d-", o.at))})
			if err != nil {
				return 0, plainS3(err)
			}
			o.body = out.Body
		}
		n, err := o.body.Read(p)
		o.at += int64(n)
		if n > 0 {
			o.broken = 0
			return n, nil
		}
		if err != nil {
			_ = o.body.Close()
			o.body = nil
			if o.broken++; o.broken > bucketTries || o.ctx.Err() != nil {
				return 0, fmt.Errorf("reading a blob: %w", err)
			}
		}
	}
}

// Seek goes to another place, which the next Read asks for.
func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.at
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("reading a blob: before its beginning")
	}
	if offset != o.at && o.body != nil {
		_ = o.body.Close()
		o.body = nil
	}
	o.at = offset
	return offset, nil
}

// Close ends the reading.
func (o *object) Close() error {
	if o.body == nil {
		return nil
	}
	return o.body.Close()
}

// cache has copies of blobs as files, for who needs a file.
type cache struct{ dir string }

func (c cache) path(d digest) string { return filepath.Join(c.dir, d.algorithm+"-"+d.hex) }

// get returns the file, which fetch writes unless it is there. Its content is what the digest promises.
func (c cache) get(ctx context.Context, d digest, fetch func(io.Writer) error) (path string, size int64, err error) {
	path = c.path(d)
	now := time.Now()
	if info, err := os.Stat(path); err == nil {
		_ = os.Chtimes(path, now, now) // so that tidy leaves it
		return path, info.Size(), nil
	}
	f, err := os.CreateTemp(c.dir, ".fetch-*")
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(f.Name())
	h := newHash(d.algorithm)
	err = fetch(io.MultiWriter(f, h))
	info, statErr := f.Stat()
	if err := errors.Join(err, statErr, f.Close(), ctx.Err()); err != nil {
		return "", 0, err
	}
	if got := sumOf(d.algorithm, h); got != d {
		return "", 0, fmt.Errorf("blob %s is damaged in its store: it has the digest %s", d, got)
	}
	return path, info.Size(), os.Rename(f.Name(), path)
}

func (c cache) remove(d digest) error {
	err := os.Remove(c.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// tidy removes what was not used since.
func (c cache) tidy(until time.Time) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !info.ModTime().After(until) {
			if err := os.Remove(filepath.Join(c.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
