package tasks

import (
	"errors"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// A namedSecret is a reference and where it stands.
type namedSecret struct {
	ref secrets.Ref
	pos inventory.Position
}

// secretsOf collects the references in a task's texts, each once. Those in a file that the task
// names are where the task is.
func secretsOf(node *inventory.Node, task Task, pos inventory.Position) ([]namedSecret, error) {
	var named []namedSecret
	find := func(text string, pos inventory.Position) error {
		refs, err := secrets.Find(text)
		for _, r := range refs {
			if !slices.ContainsFunc(named, func(n namedSecret) bool { return n.ref == r }) {
				named = append(named, namedSecret{r, pos})
			}
		}
		return err
	}
	var walk func(*inventory.Node) error
	walk = func(n *inventory.Node) error {
		err := find(n.Str, n.Pos)
		for _, item := range n.Items {
			if err == nil {
				err = walk(item)
			}
		}
		for _, k := range n.Keys {
			if err == nil {
				err = walk(k.Value)
			}
		}
		return err
	}
	if err := walk(node); err != nil {
		return nil, err
	}
	if t, ok := task.(interface{ rendered() string }); ok {
		if err := find(t.rendered(), pos); err != nil {
			return nil, err
		}
	}
	return named, nil
}

// checkSecrets checks the references in a task's texts and those that are the values
// of its keys.
func checkSecrets(inTexts []namedSecret, task Task, check func(secrets.Ref) error) inventory.Errors {
	if check == nil {
		return nil
	}
	var errs inventory.Errors
	for _, n := range inTexts {
		if err := check(n.ref); err != nil {
			errs.Add(n.pos, "%v", err)
		}
	}
	switch t := task.(type) {
	case *Role:
		if t.ref != (secrets.Ref{}) && check(t.ref) != nil {
			errs.Add(t.Password.Pos(), noSuchStore)
		}
	case *Verify:
		if t.Login != nil && check(t.ref) != nil {
			errs.Add(t.Login.Password.Pos(), noSuchStore)
		}
	}
	return errs
}

// passwordForm is what to say of a reference that is none. What stands there may
// be the password itself, so no error repeats it.
const passwordForm = "it is not the password but where that is, as STORE:PATH or STORE:PATH#KEY, such as \"age:app#password\" or \"env:APP_PASSWORD\""

// noSuchStore is what to say of a reference to a store that there is not.
const noSuchStore = "password: there is no secret store of the name before the colon; " + passwordForm

// passwordRef reads where a password is. What begins as a secret of the age store is
// no password, so the error says what is wrong with it.
func passwordRef(s string) (secrets.Ref, error) {
	ref, err := secrets.ParseRef(s)
	if err != nil && !strings.HasPrefix(s, "age:") {
		err = errors.New(passwordForm)
	}
	return ref, err
}
