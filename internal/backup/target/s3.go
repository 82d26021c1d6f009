package target

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // it is what the protocol has for a part's checksum, against accidents
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// An S3Config says which bucket, and with what it is opened.
type S3Config struct {
	Bucket string
	Prefix string // what the names of all objects begin with, and a / behind it; "" for none
	Region string // "" for that of AWS_REGION or ~/.aws/config
	// Endpoint is the URL of another service than Amazon's, which is then asked for
	// URL/BUCKET/NAME, and in the region us-east-1 if none is known.
	Endpoint string
	// The key; that of the environment or of ~/.aws where both are empty.
	AccessKeyID, SecretAccessKey secrets.Secret
	// PartSize is the size in bytes of the first parts of a large object, 16 MiB if it is 0. A service takes
	// 10000 parts, so later ones are larger, up to 16 times.
	PartSize int
	// RetryWait is the most that is waited before a request that failed is repeated; 20s if it is 0.
	RetryWait time.Duration
}

// An S3 keeps objects in a bucket of Amazon S3 or of a service that speaks its protocol
// (https://docs.aws.amazon.com/AmazonS3/latest/API/). An object of more than one part can be seen once
// all have been sent (CompleteMultipartUpload), so that there are no unfinished ones to list.
type S3 struct {
	config S3Config

	mu     sync.Mutex
	client *s3.Client // nil until it is needed
}

// NewS3 returns the target. Nothing is asked yet.
func NewS3(c S3Config) *S3 {
	c.Prefix = strings.Trim(c.Prefix, "/")
	if c.PartSize == 0 {
		c.PartSize = 16 << 20
	}
	return &S3{config: c}
}

// String returns the bucket and the prefix as a URL.
func (s *S3) String() string {
	return strings.TrimSuffix("s3://"+s.config.Bucket+"/"+s.config.Prefix, "/")
}

// tries is how often a request is made, and reading is begun anew, before it has failed.
const tries = 5

func (s *S3) connect(ctx context.Context) (*s3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	options := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts = tries
				if s.config.RetryWait > 0 {
					o.MaxBackoff = s.config.RetryWait
				}
			})
		}),
	}
	if s.config.Region != "" {
		options = append(options, config.WithRegion(s.config.Region))
	}
	if !s.config.AccessKeyID.IsEmpty() {
		options = append(options, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(
			string(s.config.AccessKeyID.Expose()), string(s.config.SecretAccessKey.Expose()), "")))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	if c.Region == "" && s.config.Endpoint != "" {
		c.Region = "us-east-1"
	}
	if c.Region == "" {
		return nil, errors.New("no region is known; say region in [backup.to], or set AWS_REGION")
	}
	s.client = s3.NewFromConfig(c, func(o *s3.Options) {
		if s.config.Endpoint != "" {
			o.BaseEndpoint, o.UsePathStyle = &s.config.Endpoint, true
		}
		// Other services do not know the newer checksums; Content-MD5 they do.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
	})
	return s.client, nil
}

// key returns the key of an object.
func (s *S3) key(name string) *string { return aws.String(path.Join(s.config.Prefix, name)) }

// Put implements [backup.Target].
func (s *S3) Put(ctx context.Context, name string, r io.Reader) (int64, string, error) {
	if err := backup.CheckStored(name); err != nil {
		return 0, "", err
	}
	m := measure(ctx, r)
	return m.result(s, name, s.explain(s.put(ctx, name, m)))
}

func (s *S3) put(ctx context.Context, name string, r io.Reader) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	part := make([]byte, s.config.PartSize)
	n, ended, err := fill(r, part)
	if err != nil {
		return err
	}
	if ended {
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &s.config.Bucket, Key: s.key(name), Body: bytes.NewReader(part[:n]), ContentMD5: sum(part[:n])})
		return err
	}
	upload, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &s.config.Bucket, Key: s.key(name)})
	if err != nil {
		return err
	}
	if err := s.parts(ctx, c, upload, part, r); err != nil {
		// What was sent costs money until it is given up.
		tidying, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, _ = c.AbortMultipartUpload(tidying, &s3.AbortMultipartUploadInput{Bucket: upload.Bucket, Key: upload.Key, UploadId: upload.UploadId})
		return err
	}
	return nil
}

// parts sends a full part and the rest of r, and makes one object of them.
func (s *S3) parts(ctx context.Context, c *s3.Client, upload *s3.CreateMultipartUploadOutput, part []byte, r io.Reader) error {
	bucket, key := &s.config.Bucket, upload.Key
	if key == nil {
		return errors.New("the service has begun an upload without a key")
	}
	var sent []types.CompletedPart
	n, ended := len(part), false
	for number := int32(1); n > 0; number++ {
		out, err := c.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: bucket, Key: key, UploadId: upload.UploadId, PartNumber: &number, Body: bytes.NewReader(part[:n]), ContentMD5: sum(part[:n]),
		})
		if err != nil {
			return err
		}
		sent = append(sent, types.CompletedPart{ETag: out.ETag, PartNumber: aws.Int32(number)})
		if ended {
			break
		}
		if number%2000 == 0 {
			part = make([]byte, 2*len(part))
		}
		if n, ended, err = fill(r, part); err != nil {
			return err
		}
	}
	_, err := c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: bucket, Key: key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: sent}})
	return err
}

// fill reads until b is full, or r at its end, which alone is io.EOF: a connection that was cut off gives io.ErrUnexpectedEOF.
func fill(r io.Reader, b []byte) (n int, ended bool, err error) {
	for n < len(b) {
		more, err := r.Read(b[n:])
		n += more
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}

func sum(b []byte) *string {
	digest := md5.Sum(b) //nolint:gosec // see the import
	return aws.String(base64.StdEncoding.EncodeToString(digest[:]))
}

// Get implements [backup.Target]. A connection that ends in the middle is made again for the rest.
func (s *S3) Get(ctx context.Context, name string, w io.Writer) error {
	if err := backup.CheckStored(name); err != nil {
		return err
	}
	to := &sink{w: w}
	return to.result(s, name, s.explain(s.get(ctx, name, to)))
}

func (s *S3) get(ctx context.Context, name string, w *sink) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	in := &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: s.key(name)}
	var written int64
	for try := 1; ; try++ {
		out, err := c.GetObject(ctx, in)
		if err != nil {
			return err
		}
		n, err := io.Copy(w, out.Body)
		out.Body.Close()
		written += n
		if err == nil && out.ContentLength != nil && n < *out.ContentLength {
			err = io.ErrUnexpectedEOF
		}
		if err == nil || ctx.Err() != nil || try == tries || out.ETag == nil || w.result(s, name, nil) != nil {
			return err
		}
		in.Range, in.IfMatch = aws.String(fmt.Sprintf("bytes=%d-", written)), out.ETag
	}
}

// List implements [backup.Target].
func (s *S3) List(ctx context.Context, folder string) ([]backup.Object, error) {
	if err := checkFolder(folder); err != nil {
		return nil, err
	}
	all, err := s.list(ctx, folder)
	if err != nil {
		return nil, fail("list", s, folder, s.explain(err))
	}
	sortObjects(all)
	return all, nil
}

func (s *S3) list(ctx context.Context, folder string) ([]backup.Object, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	in := &s3.ListObjectsV2Input{Bucket: &s.config.Bucket}
	if prefix := path.Join(s.config.Prefix, folder); prefix != "" {
		in.Prefix = aws.String(prefix + "/")
	}
	var all []backup.Object
	for pages := s3.NewListObjectsV2Paginator(c, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			name := strings.TrimPrefix(strings.TrimPrefix(aws.ToString(o.Key), s.config.Prefix), "/")
			if backup.CheckName(name) == nil {
				all = append(all, backup.Object{Name: name, Bytes: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified).UTC()})
			}
		}
	}
	return all, nil
}

// Remove implements [backup.Target].
func (s *S3) Remove(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := backup.CheckName(name); err != nil {
			return err
		}
	}
	c, err := s.connect(ctx)
	if err != nil {
		return fail("remove", s, "", err)
	}
	for _, name := range names {
		if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.config.Bucket, Key: s.key(name)}); err != nil {
			return fail("remove", s, name, s.explain(err))
		}
	}
	return nil
}

// explain turns an error of the SDK into one that says what to do
// (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html). Other errors it leaves.
func (s *S3) explain(err error) error {
	var op *smithy.OperationError
	if !errors.As(err, &op) {
		return err
	}
	var api smithy.APIError
	var dns *net.DNSError
	var network *url.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &api):
		return s.explainCode(op.OperationName, api)
	case errors.As(err, &dns):
		return fmt.Errorf("the service cannot be reached: %w; is region or endpoint in [backup.to] right?", dns)
	case errors.As(err, &network):
		return fmt.Errorf("%s: the service cannot be reached: %w; is region or endpoint in [backup.to] right?", op.OperationName, network.Err)
	case strings.Contains(err.Error(), "credentials"):
		return errors.New("there is no key to open it with; say access_key_id and secret_access_key in [backup.to], or log in, such as with aws sso login")
	}
	return fmt.Errorf("%s: %w", op.OperationName, op.Err)
}

func (s *S3) explainCode(operation string, e smithy.APIError) error {
	switch code := e.ErrorCode(); code {
	case "NoSuchKey", "NotFound":
		return fs.ErrNotExist
	case "NoSuchBucket":
		return errors.New("there is no such bucket; make it first, and let nobody but the one who backs up write there")
	case "AccessDenied", "Forbidden":
		return fmt.Errorf("access denied to %s; the key's policy must allow it in this bucket", operation)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
		return fmt.Errorf("the key was refused (%s); are access_key_id and secret_access_key in [backup.to] those of this service?", code)
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return fmt.Errorf("the bucket is in another region (%s); say region in [backup.to]", code)
	default:
		return fmt.Errorf("%s: %s: %s", operation, code, e.ErrorMessage())
	}
}
