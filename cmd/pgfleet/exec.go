package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

func (a *app) execCommand() *cobra.Command {
	var user string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND...",
		Short: "Run a command on every host",
		Long: `Exec runs a command on every host that --limit means, as the login user or as
another one. One argument is a script for sh; several are a command and its
arguments, which reach it as they are. Equal outputs are shown once.`,
		Example: `  pgfleet exec -- uptime
  pgfleet exec -l eu --user root -- 'df -h /var/lib/postgresql | tail -n 1'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("a command is missing; give it behind --, such as: pgfleet exec -- uptime")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.exec(cmd.Context(), script(args), user, asJSON)
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "run it as this `user`, such as root or postgres")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outputs as JSON")
	return cmd
}

// script makes one text for sh of the command line's arguments.
func script(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	var words []string
	for _, arg := range args {
		words = append(words, transport.Quote(arg))
	}
	return strings.Join(words, " ")
}

// An outcome is how a command ended on one host.
type outcome struct {
	host   string
	output transport.Output
	err    error
}

func (a *app) exec(ctx context.Context, script, user string, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	outcomes := eachHost(ctx, s, func(ctx context.Context, conn transport.Conn, h *inventory.Host) outcome {
		out, err := conn.Run(ctx, transport.Command{Script: script, User: user, MaxOutput: 16 << 20})
		return outcome{h.Name, out, err}
	}, func(h *inventory.Host, err error) outcome { return outcome{host: h.Name, err: err} })
	if asJSON {
		if err := a.ui.JSON(execJSON(outcomes)); err != nil {
			return err
		}
	} else {
		a.showOutcomes(outcomes)
	}
	var failed []failure
	ended := false
	for _, o := range outcomes {
		if o.err != nil {
			failed = append(failed, failure{inventory.InstanceID(o.host), o.err})
		}
		ended = ended || o.output.ExitCode != 0
	}
	if err := a.failures(failed); err != nil || !ended {
		return err
	}
	return errHostFailed
}

// eachHost calls do with the connection to each host, or failed where there is
// none, --forks at a time. The results are in the order of the hosts.
func eachHost[T any](ctx context.Context, s *session, do func(context.Context, transport.Conn, *inventory.Host) T, failed func(*inventory.Host, error) T) []T {
	hosts := s.hosts()
	results := make([]T, len(hosts))
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	p := newProgress(s.app.ui, "running", names)
	p.Start()
	defer p.Stop()
	var group errgroup.Group
	group.SetLimit(s.app.forks)
	for i, h := range hosts {
		group.Go(func() error {
			p.Observe(rollout.Event{Kind: rollout.Connecting, Host: h.Name})
			err := s.undecidedHost(h)
			var conn transport.Conn
			if err == nil {
				conn, err = s.run.Conn(ctx, h)
			}
			if err != nil {
				results[i] = failed(h, err)
			} else {
				p.Observe(rollout.Event{Kind: rollout.Surveying, Host: h.Name})
				results[i] = do(ctx, conn, h)
			}
			p.Observe(rollout.Event{Kind: rollout.Surveyed, Host: h.Name, Err: err})
			return nil
		})
	}
	_ = group.Wait()
	return results
}

// undecidedHost returns why it is not known whether the host is meant.
func (s *session) undecidedHost(h *inventory.Host) error {
	var all []error
	for _, in := range s.instances {
		if in.Host != h {
			continue
		}
		err := s.undecided[in.ID()]
		if err == nil {
			return nil // one of its instances is meant for certain
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// showOutcomes prints what hosts wrote, equal outputs together.
func (a *app) showOutcomes(outcomes []outcome) {
	type said struct {
		stdout, stderr string
		code           int
		truncated      bool
	}
	var ran []outcome
	for _, o := range outcomes {
		if o.err == nil {
			ran = append(ran, o)
		}
	}
	for _, same := range groupBy(ran, func(o outcome) said {
		return said{string(o.output.Stdout), string(o.output.Stderr), o.output.ExitCode, o.output.Truncated}
	}) {
		var who []string
		for _, o := range same {
			who = append(who, o.host)
		}
		a.ui.Print(renderOutput(strings.Join(who, ", "), same[0].output, a.ui.style))
	}
}

// renderOutput shows an output: on one line with the hosts' names if it has
// only one.
func renderOutput(who string, out transport.Output, st style) string {
	var lines []string
	for _, part := range [][]byte{out.Stdout, out.Stderr} {
		if text := strings.TrimRight(clean(string(part)), "\n"); text != "" {
			lines = append(lines, strings.Split(text, "\n")...)
		}
	}
	if out.Truncated {
		lines = append(lines, st.yellow("(the rest of the output was dropped)"))
	}
	if out.ExitCode != 0 {
		lines = append(lines, st.red(fmt.Sprintf("exit code %d", out.ExitCode)))
	}
	switch len(lines) {
	case 0:
		return st.bold(who+":") + " (no output)\n"
	case 1:
		return st.bold(who+":") + " " + lines[0] + "\n"
	}
	return st.bold(who+":") + "\n  " + strings.Join(lines, "\n  ") + "\n"
}

type execDocument struct {
	Host     string `json:"host"`
	ExitCode *int   `json:"exit_code,omitempty"`
	Stdout   string `json:"stdout,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
	Error    string `json:"error,omitempty"`
}

func execJSON(outcomes []outcome) any {
	list := []execDocument{}
	for _, o := range outcomes {
		d := execDocument{Host: o.host}
		if o.err != nil {
			d.Error = o.err.Error()
		} else {
			d.ExitCode, d.Stdout, d.Stderr = &o.output.ExitCode, string(o.output.Stdout), string(o.output.Stderr)
		}
		list = append(list, d)
	}
	return struct {
		Format int            `json:"format"`
		Hosts  []execDocument `json:"hosts"`
	}{jsonFormat, list}
}
