package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/awsstore"
	"github.com/pgfleet/pgfleet/internal/secrets/execstore"
	"github.com/pgfleet/pgfleet/internal/secrets/vaultstore"
	"github.com/pgfleet/pgfleet/inventory"
)

// addStores adds the stores of [secrets] to c. None of them is asked yet.
func addStores(c *secrets.Config, fleet *inventory.Fleet) error {
	if age := fleet.Secrets.Age; age != nil {
		c.Age = ageConfig("", age)
	}
	for _, s := range fleet.Secrets.Stores {
		var store secrets.Store
		var err error
		switch {
		case s.Age != nil:
			c.Ages = append(c.Ages, ageConfig(s.Name, s.Age))
			continue
		case s.Vault != nil:
			store, err = vaultStore(c, fleet, s.Name, s.Vault)
		case s.AWS != nil:
			store = awsstore.New(awsstore.Config{
				Name: s.Name, Region: s.AWS.Region, Profile: s.AWS.Profile, Endpoint: s.AWS.Endpoint.Value, Timeout: s.AWS.Timeout,
			})
		case s.Exec != nil:
			store, err = execstore.New(execstore.Config{
				Name: s.Name, Command: s.Exec.Command.Value, Dir: c.Dir, Timeout: s.Exec.Timeout, Redactor: c.Redactor,
			})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Pos, err)
		}
		c.Stores = append(c.Stores, store)
	}
	return nil
}

func ageConfig(name string, age *inventory.AgeStore) secrets.AgeConfig {
	return secrets.AgeConfig{Name: name, Dir: age.Dir, Identities: age.Identities, Recipients: age.Recipients}
}

func vaultStore(c *secrets.Config, fleet *inventory.Fleet, name string, v *inventory.VaultStore) (secrets.Store, error) {
	config := vaultstore.Config{
		Name: name, Address: v.Address.Value, Namespace: v.Namespace, Mount: v.Mount, Versions: v.Versions, Auth: v.Auth, Timeout: v.Timeout,
		LookupEnv: c.LookupEnv, Redactor: c.Redactor,
	}
	if v.CAFile != "" {
		config.CAFile = fleet.File(v.CAFile)
		if rest, ok := strings.CutPrefix(config.CAFile, "~/"); ok {
			home, _ := c.LookupEnv("HOME")
			config.CAFile = filepath.Join(home, rest)
		}
	}
	for written, ref := range map[*inventory.Positioned[string]]*secrets.Ref{&v.Token: &config.Token, &v.RoleID: &config.RoleID, &v.SecretID: &config.SecretID} {
		if written.Value == "" {
			continue
		}
		var err error
		if *ref, err = secrets.ParseRef(written.Value); err != nil {
			return nil, err
		}
	}
	// The stores env and file are all that these may name. What they hold is masked
	// like every other secret.
	local, err := secrets.NewResolver(secrets.Config{Dir: c.Dir, LookupEnv: c.LookupEnv, Redactor: c.Redactor})
	if err != nil {
		return nil, err
	}
	config.Read = func(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
		s, _, err := local.Resolve(ctx, ref)
		return s, err
	}
	return vaultstore.New(config)
}
