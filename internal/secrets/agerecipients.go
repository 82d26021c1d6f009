package secrets

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// parseRecipients returns the configured recipients, and what was written for them.
func (s *AgeStore) parseRecipients() ([]age.Recipient, []string, error) {
	var recipients []age.Recipient
	var written []string
	for _, c := range s.recipients {
		lines := []string{c}
		if !isRecipient(c) {
			var err error
			if lines, err = s.recipientFile(c); err != nil {
				return nil, nil, err
			}
		}
		for _, line := range lines {
			if slices.Contains(written, line) {
				continue
			}
			r, err := parseRecipient(line)
			if err != nil {
				return nil, nil, err
			}
			recipients, written = append(recipients, r), append(written, line)
		}
	}
	if len(recipients) == 0 {
		return nil, nil, &hintedError{errors.New("nobody is configured to be able to read what is written"), s.ownRecipients()}
	}
	return recipients, written, checkMix(recipients, written)
}

// isRecipient reports whether a configured recipient is one rather than a file of
// them. A path of a file may be written with ./ in front.
func isRecipient(s string) bool {
	return strings.HasPrefix(s, "age1") || strings.HasPrefix(s, "ssh-") || strings.HasPrefix(s, "ecdsa-") || strings.HasPrefix(s, "sk-")
}

// recipientFile returns the recipients in a file with one on each line.
func (s *AgeStore) recipientFile(name string) ([]string, error) {
	file, err := expandPath(name, s.base, s.lookupEnv)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("recipient %q is neither a public key (age1…, ssh-ed25519 …, ssh-rsa …) nor a file of them: %w", name, err)
	}
	if holdsAgeKey(string(text)) {
		return nil, fmt.Errorf("%s, among the recipients, holds a secret key: name it among the identities, and its public key (age1…) here", file)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

func parseRecipient(s string) (age.Recipient, error) {
	var r age.Recipient
	var err error
	switch {
	case strings.HasPrefix(s, "age1pq1"):
		r, err = age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1"):
		r, err = age.ParseX25519Recipient(s)
	default:
		r, err = agessh.ParseRecipient(s)
	}
	if err != nil {
		return nil, fmt.Errorf("recipient %q is not a public key of age (age1…) or SSH (ssh-ed25519 …, ssh-rsa …): %w", s, err)
	}
	return r, nil
}

// checkMix refuses post-quantum recipients beside others, as age does, but names
// who is to change.
func checkMix(recipients []age.Recipient, written []string) error {
	var classic []string
	for i, r := range recipients {
		if _, ok := r.(*age.HybridRecipient); !ok {
			classic = append(classic, ShortRecipient(written[i]))
		}
	}
	if len(classic) == 0 || len(classic) == len(recipients) {
		return nil
	}
	return &hintedError{
		errors.New("post-quantum recipients (age1pq1…) and others cannot be mixed: the file would be no safer than its weakest recipient"),
		fmt.Sprintf("either all are post-quantum (age-keygen -pq) or none; not post-quantum: %s", strings.Join(classic, ", ")),
	}
}

// ShortRecipient returns what tells a public key from others: the comment of an SSH
// key or else its end, the start of another.
func ShortRecipient(s string) string {
	const most = 24
	kind, rest, isSSH := strings.Cut(s, " ")
	if isSSH {
		key, comment, ok := strings.Cut(rest, " ")
		if !ok {
			comment = "…" + key[max(0, len(key)-most/2):] // all keys of a kind begin alike
		}
		return kind + " " + comment
	}
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// ownRecipients says what to add to the recipients, so far as it can be known
// without asking for a passphrase.
func (s *AgeStore) ownRecipients() string {
	hint := "add recipients to the age store in fleet.toml"
	ids, err := s.identities.load()
	if err != nil {
		return hint
	}
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			return fmt.Sprintf("%s; yours is %q", hint, id.Recipient())
		case *age.HybridIdentity:
			return fmt.Sprintf("%s; yours is %q", hint, id.Recipient())
		}
	}
	return hint
}

// noIdentity says who could open a file: its header tells the types of its
// recipients only, so those that are configured are named too.
func (s *AgeStore) noIdentity(file string, noMatch *age.NoIdentityMatchError) error {
	count := make(map[string]int)
	var types []string
	for _, t := range noMatch.StanzaTypes {
		switch t {
		case stanzaX25519:
			t = "age1…"
		case stanzaHybrid:
			t = "age1pq1…"
		}
		if count[t]++; count[t] == 1 {
			types = append(types, t)
		}
	}
	for i, t := range types {
		types[i] = fmt.Sprintf("%d × %s", count[t], t)
	}
	hint := "somebody who can must add your public key to the recipients and encrypt it again"
	if _, written, err := s.parseRecipients(); err == nil {
		for i, w := range written {
			written[i] = ShortRecipient(w)
		}
		hint += "; the recipients in fleet.toml are " + strings.Join(written, ", ")
	}
	return &hintedError{
		fmt.Errorf("none of the identities (%s) opens %s, which is encrypted to %s: %w", strings.Join(s.identities.names, ", "), file, strings.Join(types, ", "), age.ErrIncorrectIdentity),
		hint,
	}
}
