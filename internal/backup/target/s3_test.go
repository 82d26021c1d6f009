package target

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/backup/target/s3server"
	"github.com/pgfleet/pgfleet/internal/backup/target/targettest"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// noAWS takes this machine's own configuration of AWS away.
func noAWS(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_ENDPOINT_URL": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
}

// TestS3Service runs the suite on a real service, which PGFLEET_TEST_S3 names: URL BUCKET KEYID KEY.
func TestS3Service(t *testing.T) {
	service := strings.Fields(os.Getenv("PGFLEET_TEST_S3"))
	if len(service) != 4 {
		return // nothing is missing: the suite has run with a server of the test's own
	}
	noAWS(t)
	const part = 5 << 20 // the least that services take
	n := 0
	targettest.Run(t, part, func(*testing.T) backup.Target {
		n++
		return NewS3(S3Config{
			Bucket: service[1], Prefix: fmt.Sprintf("test-%d-%d", time.Now().UnixNano(), n), Endpoint: service[0],
			AccessKeyID: secrets.NewString(service[2]), SecretAccessKey: secrets.NewString(service[3]), PartSize: part, RetryWait: 10 * time.Millisecond,
		})
	})
}

// bucket returns the target of a test server, with small parts.
func bucket(s *s3server.Server, change func(*S3Config)) *S3 {
	c := S3Config{
		Bucket: s3server.Bucket, Prefix: "eu", Endpoint: s.URL, AccessKeyID: secrets.NewString(s3server.KeyID), SecretAccessKey: secrets.NewString(s3server.SecretKey),
		PartSize: 2000, RetryWait: time.Millisecond,
	}
	if change != nil {
		change(&c)
	}
	return NewS3(c)
}

func TestS3(t *testing.T) {
	noAWS(t)
	targettest.Run(t, 2000, func(t *testing.T) backup.Target {
		s := s3server.New(t)
		t.Cleanup(func() {
			if n := s.Uploads(); n > 0 {
				t.Errorf("%d uploads were not given up", n)
			}
		})
		return bucket(s, nil)
	})
}

func TestS3Faults(t *testing.T) {
	noAWS(t)
	content := targettest.Noise(7001)
	always := func(f s3server.Fault, operation string) func(string, int) s3server.Fault {
		return func(o string, _ int) s3server.Fault {
			if o == operation {
				return f
			}
			return s3server.None
		}
	}
	// Every operation fails twice, and then works.
	for _, f := range []s3server.Fault{s3server.Unavailable, s3server.Cut} {
		s := s3server.New(t)
		failed := map[string]int{}
		s.Set(func(o string, _ int) s3server.Fault {
			if failed[o]++; failed[o] <= 2 {
				return f
			}
			return s3server.None
		})
		b := bucket(s, nil)
		if _, _, err := b.Put(t.Context(), "a/x", bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := b.Get(t.Context(), "a/x", &got); err != nil || !bytes.Equal(got.Bytes(), content) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		if all, err := b.List(t.Context(), "a"); err != nil || len(all) != 1 {
			t.Errorf("%v, %v", all, err)
		}
		if err := b.Remove(t.Context(), "a/x"); err != nil {
			t.Error(err)
		}
		if len(failed) != 6 {
			t.Errorf("these failed: %v", failed)
		}
	}
	// One that goes on failing leaves nothing: no object, and no part of one.
	for _, o := range []string{"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"} {
		for _, f := range []s3server.Fault{s3server.Unavailable, s3server.Cut} {
			s := s3server.New(t)
			s.Set(always(f, o))
			b := bucket(s, nil)
			_, _, err := b.Put(t.Context(), "a/x", bytes.NewReader(content))
			if err == nil || !strings.Contains(err.Error(), "s3://backups/eu: write a/x: ") || !strings.Contains(err.Error(), o) {
				t.Errorf("%s: %v", o, err)
			}
			if all, err := b.List(t.Context(), ""); err != nil || len(all) > 0 || s.Uploads() > 0 {
				t.Errorf("%s: %v, %v, %d uploads", o, all, err, s.Uploads())
			}
		}
	}
	// What is cut off while it is read goes on where it was cut.
	s := s3server.New(t)
	b := bucket(s, nil)
	if _, _, err := b.Put(t.Context(), "a/x", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	s.Set(func(_ string, n int) s3server.Fault {
		if n < 4 {
			return s3server.CutAnswer
		}
		return s3server.None
	})
	var got bytes.Buffer
	if err := b.Get(t.Context(), "a/x", &got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	s.Set(always(s3server.CutAnswer, "GetObject"))
	if err := b.Get(t.Context(), "a/x", &bytes.Buffer{}); err == nil {
		t.Error("an object that was never whole is whole")
	}
}

func TestS3Refused(t *testing.T) {
	noAWS(t)
	s := s3server.New(t)
	for _, test := range []struct {
		change func(*S3Config)
		want   string
	}{
		{func(c *S3Config) { c.SecretAccessKey = secrets.NewString("not-the-key") }, "the key was refused (SignatureDoesNotMatch)"},
		{func(c *S3Config) { c.AccessKeyID = secrets.NewString("NOBODY") }, "the key was refused (InvalidAccessKeyId)"},
		{func(c *S3Config) { c.Bucket = "nothing" }, "there is no such bucket"},
		{func(c *S3Config) { c.AccessKeyID, c.SecretAccessKey = secrets.Secret{}, secrets.Secret{} }, "there is no key to open it with"},
		{func(c *S3Config) { c.Endpoint = "http://127.0.0.1:1" }, "the service cannot be reached"},
		{func(c *S3Config) { c.Endpoint = "" }, "no region is known"},
	} {
		b := bucket(s, test.change)
		_, _, err := b.Put(t.Context(), "a/x", strings.NewReader("x"))
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "not-the-key") {
			t.Errorf("%v, want %q", err, test.want)
		}
		if _, err := b.List(t.Context(), ""); err == nil {
			t.Errorf("%s: it is listed", test.want)
		}
		if err := b.Get(t.Context(), "a/x", &bytes.Buffer{}); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", test.want, err)
		}
	}
}
