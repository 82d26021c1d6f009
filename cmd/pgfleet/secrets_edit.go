package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/adopt"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

func (a *app) secretsEditCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "edit STORE:PATH",
		Short: "Change the keys of a secret in an editor",
		Long: `Edit opens the editor that VISUAL or EDITOR names, or vi, on the keys and values of
a secret, and writes what was changed as its new current version. If somebody else
writes the secret in the meantime, nothing is written.

The text lies in a folder that only you can read, on a file system in memory, which
is removed when the editor has ended, together with the editor's own files in it.
Vim and Neovim are told to keep no swap file, backup, undo file or registers. Where
there is no file system in memory, edit refuses.`,
		Args:              oneSecret,
		ValidArgsFunction: a.completeSecret,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.secretsEdit(cmd.Context(), args[0]) },
	}
}

func (a *app) secretsEdit(ctx context.Context, name string) error {
	ref, err := secrets.ParseRef(name)
	if err == nil && (ref.Key != "" || ref.Version != "") {
		err = fmt.Errorf("secret %v: all keys of the current version are edited: leave #KEY and @VERSION out", ref)
	}
	if err != nil {
		return &inputError{err}
	}
	// Not one signal may end the process before the text is removed.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	t, err := a.openTarget(ctx, ref, false)
	if err != nil {
		return err
	}
	change, err := a.edit(ctx, t)
	if err != nil {
		return fmt.Errorf("secret %v: %w; nothing was written", ref, err)
	}
	if len(change.Set) == 0 && len(change.Remove) == 0 {
		a.ui.Print(fmt.Sprintf("%v is as it was; nothing was written", ref))
		return nil
	}
	id, err := a.write(ctx, t, change)
	if err != nil {
		return err
	}
	a.ui.Print(fmt.Sprintf("%v is written (%s): %s", ref, changedKeys(change), t.became(id)))
	return nil
}

// changedKeys names the keys of a change.
func changedKeys(c secrets.Change) string {
	var parts []string
	if len(c.Set) > 0 {
		parts = append(parts, "set: "+strings.Join(slices.Sorted(maps.Keys(c.Set)), ", "))
	}
	if len(c.Remove) > 0 {
		parts = append(parts, "removed: "+strings.Join(slices.Sorted(slices.Values(c.Remove)), ", "))
	}
	return strings.Join(parts, "; ")
}

// edit lets the user edit a secret until what they leave can be read.
func (a *app) edit(ctx context.Context, t target) (change secrets.Change, err error) {
	folder, err := memoryFolder(a.term.LookupEnv)
	if err != nil {
		return change, err
	}
	defer func() {
		if removed := os.RemoveAll(folder.path); removed != nil {
			err = errors.Join(err, fmt.Errorf("the text is left in the clear in %s, remove it: %w", folder.path, removed))
		}
		folder.unlock()
	}()
	file := filepath.Join(folder.path, "secret.toml")
	if err := os.WriteFile(file, editText(t), 0o600); err != nil {
		return change, err
	}
	for {
		if err := a.runEditor(ctx, file); err != nil {
			return change, err
		}
		text, err := os.ReadFile(file)
		if err == nil {
			change, err = editedChange(t.now, text)
		}
		if err == nil || !a.ui.Interactive() {
			return change, err
		}
		a.ui.Note("pgfleet: " + clean(err.Error()))
		answer, askErr := a.ui.Ask(ctx, "Go on editing? [Y/n] ")
		if askErr != nil {
			return change, askErr
		}
		if strings.HasPrefix(strings.ToLower(answer), "n") {
			return change, err
		}
	}
}

// runEditor runs the user's editor on a file until it ends.
func (a *app) runEditor(ctx context.Context, file string) error {
	editor := "vi"
	for _, variable := range []string{"EDITOR", "VISUAL"} {
		if value, _ := a.term.LookupEnv(variable); strings.TrimSpace(value) != "" {
			editor = value
		}
	}
	// A shell splits the variable into words, as for git and crontab.
	args := []string{"-c", editor + ` "$@"`, "editor"}
	args = append(args, discreet(editor)...)
	cmd := exec.CommandContext(ctx, "/bin/sh", append(args, file)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.term.In, a.term.Out, a.term.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		return fmt.Errorf("the editor (%s) failed: %w", editor, err)
	}
	return nil
}

// discreet returns arguments that keep an editor from writing parts of the text
// elsewhere: vim's swap file, viminfo, backup and undo file may lie anywhere.
func discreet(editor string) []string {
	words := strings.Fields(editor)
	path, err := exec.LookPath(words[0])
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	base := filepath.Base(path)
	if err != nil || !strings.HasPrefix(base, "vim") && !strings.HasPrefix(base, "nvim") {
		return nil
	}
	return []string{"-n", "-i", "NONE", "-c", "set nobackup nowritebackup noundofile"}
}

// editText is what the user gets to edit.
func editText(t target) []byte {
	var b strings.Builder
	which := "which is new"
	if t.now.Keys != nil {
		which = "version " + t.now.ID
	}
	fmt.Fprintf(&b, `# %s, %s
# TOML, one KEY = "VALUE" for each key. A line taken out is a key taken out. Leave
# everything as it is, and nothing is written.
`, t.name(), which)
	var kept []string
	for _, key := range slices.Sorted(maps.Keys(t.now.Keys)) {
		value := t.now.Keys[key].Expose()
		if !utf8.Valid(value) {
			kept = append(kept, key)
			continue
		}
		fmt.Fprintf(&b, "%s = %s\n", adopt.Key(key), editValue(string(value)))
	}
	if len(kept) > 0 {
		fmt.Fprintf(&b, "# Kept as they are, because their values are no text: %s\n", strings.Join(kept, ", "))
	}
	return []byte(b.String())
}

// editValue writes a value in TOML, one of several lines on several lines.
func editValue(s string) string {
	if !strings.Contains(s, "\n") {
		return adopt.String(s)
	}
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		quoted := adopt.String(line)
		lines[i] = quoted[1 : len(quoted)-1]
	}
	return `"""` + "\n" + strings.Join(lines, "\n") + `"""`
}

// editedChange reads what the user has left. An error quotes no line, which may
// hold a value.
func editedChange(now secrets.Entry, text []byte) (secrets.Change, error) {
	change := secrets.Change{Set: map[string]secrets.Secret{}}
	var found map[string]any
	if _, err := toml.Decode(string(text), &found); err != nil {
		if at, ok := errors.AsType[toml.ParseError](err); ok {
			return change, fmt.Errorf("line %d is not TOML: want KEY = \"VALUE\", with \\\" for a quote and \\\\ for a backslash in the value, and each key once", at.Position.Line)
		}
		return change, errors.New("it is not TOML")
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		value, ok := found[key].(string)
		switch {
		case !ok:
			return change, fmt.Errorf("key %q: want a value in quotes, and quotes around a key with a dot in it", key)
		case value == "":
			return change, fmt.Errorf("key %q: the value is empty; to take the key out, take the line out", key)
		case key == "" || secrets.Ref{Store: "store", Path: "path", Key: key}.Check() != nil:
			return change, fmt.Errorf("%q cannot be the name of a key", key)
		}
		if s := secrets.NewString(value); !now.Keys[key].Equal(s) {
			change.Set[key] = s
		}
	}
	left := len(found)
	for _, key := range slices.Sorted(maps.Keys(now.Keys)) {
		if _, ok := found[key]; ok {
			continue
		}
		if utf8.Valid(now.Keys[key].Expose()) {
			change.Remove = append(change.Remove, key)
		} else {
			left++
		}
	}
	if left == 0 {
		return change, errors.New("no key is left; to do away with a secret, remove it from the store (the file of the age store)")
	}
	return change, nil
}
