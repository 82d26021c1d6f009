package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// setOptions are the flags of secrets set.
type setOptions struct {
	generate bool
	replace  bool
	stdin    bool // the argument - was given
}

func (a *app) secretsSetCommand() *cobra.Command {
	var o setOptions
	cmd := &cobra.Command{
		Use:   "set STORE:PATH#KEY [-]",
		Short: "Write a new value of a secret",
		Long: `Set asks for the value twice without showing it, or reads it from standard input
if that is no terminal or - is given. There a newline at the end is dropped when
there is no other; a text of several lines, such as a key, is kept as it is.

The secret's other keys stay. The new version is written as pending and then made
the current one, and the one before can still be read as @previous. If somebody
else writes the secret in the meantime, nothing is written.

Set changes the store alone. A server learns of a new password with the next
apply, and until then logins that take it from the store fail.`,
		Example: `  pgfleet secrets set age:prod/appuser#password
  pgfleet secrets set age:prod/appuser#password --generate
  pgfleet secrets set age:ca#key < ca.key`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && args[1] == "-" {
				args = args[:1]
			}
			return oneSecret(cmd, args)
		},
		ValidArgsFunction: a.completeSecret,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.stdin = len(args) == 2
			return a.secretsSet(cmd.Context(), args[0], o)
		},
	}
	cmd.Flags().BoolVar(&o.generate, "generate", false, "make the value at random: 256 bits, as 43 letters, digits, - and _")
	cmd.Flags().BoolVar(&o.replace, "replace-pending", false, "go ahead where a pending version exists, and drop it")
	return cmd
}

func (a *app) secretsSet(ctx context.Context, name string, o setOptions) error {
	ref, err := secrets.ParseRef(name)
	if err == nil && ref.Version != "" {
		err = fmt.Errorf("secret %v: what is written becomes a version of its own: leave @%s out", ref, ref.Version)
	}
	if err == nil && o.generate && o.stdin {
		err = errors.New("either --generate or -")
	}
	if err != nil {
		return &inputError{err}
	}
	t, err := a.openTarget(ctx, ref, o.replace)
	if err != nil {
		return err
	}
	key, err := t.key()
	if err != nil {
		return &inputError{err}
	}
	t.ref.Key = key
	value, err := a.newValue(ctx, t.ref, o)
	if err != nil {
		return err
	}
	if now, ok := t.now.Keys[key]; ok && now.Equal(value) {
		a.ui.Print(fmt.Sprintf("%v has this value already; nothing was written", t.ref))
		return nil
	}
	id, err := a.write(ctx, t, secrets.Change{Set: map[string]secrets.Secret{key: value}, Replace: o.replace})
	if err != nil {
		return err
	}
	a.ui.Print(fmt.Sprintf("%v is written: %s", t.ref, t.became(id)))
	return nil
}

// key is which of the secret's keys is meant: its only one if none is named.
func (t target) key() (string, error) {
	if t.ref.Key != "" {
		return t.ref.Key, nil
	}
	names := slices.Sorted(maps.Keys(t.now.Keys))
	switch len(names) {
	case 0:
		return "", fmt.Errorf("secret %v does not exist yet: name the key that it is to have, such as %v#password", t.ref, t.ref)
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("secret %v has %d keys (%s) and none is named: add #KEY", t.ref, len(names), strings.Join(names, ", "))
}

// newValue makes the value, reads it or asks for it.
func (a *app) newValue(ctx context.Context, ref secrets.Ref, o setOptions) (secrets.Secret, error) {
	var value secrets.Secret
	var err error
	tty := a.term.In != nil && term.IsTerminal(int(a.term.In.Fd()))
	switch {
	case o.generate:
		return secrets.GeneratePassword(), nil
	case tty && o.stdin:
		return value, &inputError{errors.New("standard input is a terminal, which would show what you type: leave the - out")}
	case tty:
		value, err = a.askTwice(ctx, ref)
	default:
		value, err = readValue(a.term.In)
	}
	if err == nil && value.IsEmpty() {
		err = errors.New("the value is empty")
	}
	if err != nil {
		return value, &inputError{fmt.Errorf("secret %v: %w; nothing was written", ref, err)}
	}
	return value, nil
}

func (a *app) askTwice(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	value, err := a.ui.Secret(ctx, fmt.Sprintf("Value of %v", ref))
	if err != nil || value.IsEmpty() {
		return value, err
	}
	again, err := a.ui.Secret(ctx, "The same again")
	if err != nil {
		return value, err
	}
	if !again.Equal(value) {
		return value, errors.New("the second value is another one")
	}
	return value, nil
}

// maxValue is the most that is taken for a value: far above any key or password.
const maxValue = 1 << 20

// readValue reads a value. The newline that echo and editors put behind one line is
// not part of it; a text of several lines is left as it is.
func readValue(r io.Reader) (secrets.Secret, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxValue+1))
	if err != nil {
		return secrets.Secret{}, err
	}
	if len(b) > maxValue {
		return secrets.Secret{}, fmt.Errorf("the value has more than %d bytes", maxValue)
	}
	if line, ok := bytes.CutSuffix(b, []byte("\n")); ok && !bytes.ContainsRune(line, '\n') {
		b = bytes.TrimSuffix(line, []byte("\r"))
	}
	return secrets.New(b), nil
}
