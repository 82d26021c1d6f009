package target

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
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
		t.Skip("PGFLEET_TEST_S3 names no service")
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
