package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/lab"
)

// wishes are the flags of `lab up`.
type wishes struct {
	hosts, version                       int
	versions, standbys, instances        []string
	sudoAsks, rootLogin, noForward, down []string
	noPgaudit                            []string
}

func upCommand(bridge *string) *cobra.Command {
	var w wishes
	c := &cobra.Command{
		Use:   "up",
		Short: "Boot hosts pg01, pg02, ... and leave them running",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			hosts, err := w.list()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			_, err = lab.Up(c.Context(), lab.Options{Hosts: hosts, Bridge: *bridge, Detach: true, Command: self, Log: c.ErrOrStderr()})
			return err
		},
	}
	f := c.Flags()
	f.IntVar(&w.hosts, "hosts", 4, "how many")
	f.IntVar(&w.version, "version", lab.DefaultPostgres, "PostgreSQL's major version: 13, 15, 17, 18")
	f.StringSliceVar(&w.versions, "host-version", nil, "another version for a host: pg02=17")
	f.StringSliceVar(&w.standbys, "standby", nil, "a standby and its primary: pg02=pg01")
	f.StringSliceVar(&w.instances, "instance", nil, "a further cluster: pg01=second:5433")
	f.StringSliceVar(&w.sudoAsks, "sudo-asks", nil, "hosts whose sudo asks for a password, which `lab list` prints")
	f.StringSliceVar(&w.rootLogin, "root-login", nil, "hosts that root logs in to")
	f.StringSliceVar(&w.noForward, "no-forwarding", nil, "hosts whose sshd has DisableForwarding")
	f.StringSliceVar(&w.down, "down", nil, "hosts that are not booted")
	f.StringSliceVar(&w.noPgaudit, "no-pgaudit", nil, "hosts without pgaudit, with an apt repository that has it")
	return c
}

// list makes the hosts that the flags describe.
func (w wishes) list() ([]lab.Host, error) {
	hosts := make([]lab.Host, w.hosts)
	byName := map[string]*lab.Host{}
	for i := range hosts {
		hosts[i] = lab.Host{Name: fmt.Sprintf("pg%02d", i+1), Postgres: w.version}
		byName[hosts[i].Name] = &hosts[i]
	}
	for _, each := range []struct {
		flag   string
		values []string
		set    func(h *lab.Host, value string) error
	}{
		{"host-version", w.versions, func(h *lab.Host, v string) (err error) {
			h.Postgres, err = strconv.Atoi(v)
			return err
		}},
		{"standby", w.standbys, func(h *lab.Host, v string) error {
			h.StandbyOf = v
			return nil
		}},
		{"instance", w.instances, func(h *lab.Host, v string) error {
			cluster, port, _ := strings.Cut(v, ":")
			n, err := strconv.Atoi(port)
			h.Instances = append(h.Instances, lab.Instance{Cluster: cluster, Port: n})
			return err
		}},
		{"sudo-asks", w.sudoAsks, func(h *lab.Host, _ string) error {
			h.SudoPassword = rand.Text()
			return nil
		}},
		{"root-login", w.rootLogin, func(h *lab.Host, _ string) error {
			h.RootLogin = true
			return nil
		}},
		{"no-forwarding", w.noForward, func(h *lab.Host, _ string) error {
			h.DisableForwarding = true
			return nil
		}},
		{"down", w.down, func(h *lab.Host, _ string) error {
			h.Down = true
			return nil
		}},
		{"no-pgaudit", w.noPgaudit, func(h *lab.Host, _ string) error {
			h.NoPgaudit = true
			return nil
		}},
	} {
		for _, v := range each.values {
			name, value, _ := strings.Cut(v, "=")
			h := byName[name]
			if h == nil {
				return nil, fmt.Errorf("--%s %s: there is no host %q", each.flag, v, name)
			}
			if err := each.set(h, value); err != nil {
				return nil, fmt.Errorf("--%s %s: %w", each.flag, v, err)
			}
		}
	}
	return hosts, nil
}
