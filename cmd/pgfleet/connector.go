package main

import (
	"context"
	"fmt"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A connector dials the hosts of a fleet.
type connector struct {
	fleet  *inventory.Fleet
	dialer *transport.Dialer
}

func (a *app) newConnector(ctx context.Context, fleet *inventory.Fleet) (*connector, error) {
	d := &transport.Dialer{
		ConnectTimeout: fleet.SSH.ConnectTimeout,
		// The question is the run's, not one host's, and Ctrl-C ends it.
		Passphrase: func(_ context.Context, file string) ([]byte, error) {
			s, err := a.ui.Secret(ctx, "Passphrase of "+file)
			if err != nil {
				return nil, fmt.Errorf("%w; ssh-add the key to an agent", err)
			}
			return s.Expose(), nil
		},
	}
	if fleet.SSH.Config != "" {
		d.SSHConfig = fleet.File(fleet.SSH.Config)
	}
	if a.connectTimeout > 0 {
		d.ConnectTimeout = a.connectTimeout
	}
	if a.askBecomePass {
		// Asked for now: later it would count against a host's timeout.
		password, err := a.ui.Secret(ctx, "Password for sudo on the hosts")
		if err != nil {
			return nil, &inputError{fmt.Errorf("--ask-become-pass: %w", err)}
		}
		a.ui.redactor.Add(password)
		d.BecomePassword = func(context.Context) ([]byte, error) { return password.Expose(), nil }
	}
	return &connector{fleet, d}, nil
}

// Dial implements rollout.Connector.
func (c *connector) Dial(ctx context.Context, h *inventory.Host) (transport.Conn, error) {
	return c.dialer.Dial(ctx, transport.Target{
		Name: h.Name, Address: h.Address, Port: h.Port, User: h.User,
		Identity: c.path(h.Identity), KnownHosts: c.path(c.fleet.SSH.KnownHosts),
		Jump: h.Jump, Become: h.Become,
	})
}

// path makes a path of fleet.toml one of this machine; ~ is left to transport.
func (c *connector) path(name string) string {
	if name == "" {
		return ""
	}
	return c.fleet.File(name)
}

// Close forgets passwords.
func (c *connector) Close() { _ = c.dialer.Close() }
