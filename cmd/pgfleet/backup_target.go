package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pgfleet/pgfleet/internal/backup"
	targets "github.com/pgfleet/pgfleet/internal/backup/target"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// backupTarget returns where the sets of a backup are. The instance matters, and is not nil, where each host keeps its own.
func (a *app) backupTarget(ctx context.Context, s *session, b *inventory.Backup, in *inventory.Instance) (backup.Target, error) {
	switch to := b.To; {
	case to.Path != "":
		host := s.fleet.Host(to.Host)
		if host == nil {
			host = in.Host
		}
		conn, err := s.run.Conn(ctx, host)
		if err != nil {
			return nil, err
		}
		user := "root" // whose folder the hosts that are dumped cannot reach
		if b.Hosted() {
			user = b.Role
		}
		return targets.NewHost(conn, host.Name, to.Path, user), nil
	case to.Here != "":
		dir := s.fleet.File(to.Here)
		if rest, ok := strings.CutPrefix(dir, "~/"); ok {
			home, _ := a.term.LookupEnv("HOME")
			dir = filepath.Join(home, rest)
		}
		return targets.NewFolder(dir), nil
	case to.S3 != nil:
		c := targets.S3Config{Bucket: to.S3.Bucket.Value, Prefix: to.S3.Prefix, Region: to.S3.Region, Endpoint: to.S3.Endpoint.Value}
		for _, key := range []struct {
			written inventory.Positioned[string]
			into    *secrets.Secret
		}{{to.S3.AccessKeyID, &c.AccessKeyID}, {to.S3.SecretAccessKey, &c.SecretAccessKey}} {
			if key.written.Value == "" {
				continue
			}
			ref, err := secrets.ParseRef(key.written.Value)
			if err == nil {
				*key.into, _, err = s.secrets.Resolve(ctx, ref)
			}
			if err != nil {
				return nil, &inputError{fmt.Errorf("%s: %w", key.written.Pos(), err)}
			}
		}
		return targets.NewS3(c), nil
	}
	return targets.NewCommand(b.To.Command, filepath.Dir(s.fleet.Path)), nil
}
