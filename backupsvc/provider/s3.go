package provider

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// S3 is a bucket of an object store that honours conditional writes
// (If-Match, If-None-Match), as Amazon's, MinIO, R2 and others do.
type S3 struct {
	client         *minio.Client
	bucket, prefix string
}

// S3Config says where a bucket is.
type S3Config struct {
	// URL is https://ENDPOINT/BUCKET[/PREFIX].
	URL, Region       string
	AccessKey, Secret string
	Transport         http.RoundTripper
}

// OpenS3 uses a bucket. Each wallet has a prefix of its own in it.
func OpenS3(c S3Config, id string) (*S3, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" {
		return nil, errkind.Newf(errkind.Invalid, "%q is not the address of a bucket: want https://ENDPOINT/BUCKET[/PREFIX]", c.URL)
	}
	bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if bucket == "" {
		return nil, errkind.Newf(errkind.Invalid, "%q names no bucket: want https://ENDPOINT/BUCKET[/PREFIX]", c.URL)
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(c.AccessKey, c.Secret, ""), Secure: true, Region: c.Region, Transport: c.Transport,
		BucketLookup: minio.BucketLookupAuto, MaxRetries: 1,
	})
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, "the bucket's address cannot be used")
	}
	if prefix != "" {
		prefix += "/"
	}
	return &S3{client: client, bucket: bucket, prefix: prefix + place(id) + "/"}, nil
}

// Close implements Place.
func (s *S3) Close() error { return nil }

func (s *S3) key(id string) string { return s.prefix + id + ".slb" }

// Get implements Place.
func (s *S3) Get(ctx context.Context, id string) (Object, error) {
	obj, err := s.client.GetObject(ctx, s.bucket, s.key(id), minio.GetObjectOptions{})
	if err != nil {
		return Object{}, fromS3(err, id)
	}
	defer func() { _ = obj.Close() }()
	value, err := io.ReadAll(io.LimitReader(obj, maxObject+1))
	if err != nil {
		return Object{}, fromS3(err, id)
	}
	if len(value) > maxObject {
		return Object{}, errkind.New(errkind.Invalid, "the object is larger than any backup")
	}
	info, err := obj.Stat()
	if err != nil {
		return Object{}, fromS3(err, id)
	}
	return Object{Value: value, Version: info.ETag}, nil
}

// Put implements Place.
func (s *S3) Put(ctx context.Context, id, known string, value []byte) (Stored, error) {
	opts := minio.PutObjectOptions{ContentType: "application/octet-stream", DisableMultipart: true}
	if known == Absent {
		opts.SetMatchETagExcept("*")
	} else {
		opts.SetMatchETag(known)
	}
	info, err := s.client.PutObject(ctx, s.bucket, s.key(id), bytes.NewReader(value), int64(len(value)), opts)
	if err != nil {
		return Stored{}, fromS3(err, id)
	}
	return Stored{Version: info.ETag}, nil
}

func fromS3(err error, id string) error {
	var resp minio.ErrorResponse
	if !errors.As(err, &resp) {
		return errkind.Wrap(errkind.Unavailable, err, "the object store did not answer")
	}
	switch {
	case resp.Code == minio.NoSuchKey:
		return errNothing(id)
	case resp.StatusCode == http.StatusPreconditionFailed, resp.StatusCode == http.StatusConflict:
		return errChanged()
	case resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusUnauthorized:
		return errkind.Wrap(errkind.Denied, err, "the object store refused the credentials: "+words(resp.Message))
	case resp.StatusCode == http.StatusNotImplemented:
		return errkind.Wrap(errkind.Denied, err, "this object store has no conditional writes (If-Match), without which two devices could overwrite each other: use another")
	}
	return errkind.Wrap(errkind.Unavailable, err, "the object store refused: "+words(resp.Message))
}
