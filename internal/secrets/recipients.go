package secrets

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Recipients returns the age and SSH public keys of a list whose elements are keys themselves or files of them, one on a line: each key once, as
// written. Read reads a file. The index of a mistake's element comes with the error.
func Recipients(list []string, read func(name string) ([]byte, error)) (keys []string, at int, err error) {
	for i, c := range list {
		lines := []string{c}
		if !isRecipient(c) {
			text, err := read(c)
			if err != nil {
				return nil, i, fmt.Errorf("recipient %q is neither a public key (age1…, ssh-ed25519 …, ssh-rsa …) nor a file of them: %w", c, err)
			}
			if holdsAgeKey(string(text)) {
				return nil, i, fmt.Errorf("%s, among the recipients, holds a secret key: want a file of its public key (age-keygen -y)", c)
			}
			lines = nil
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					lines = append(lines, line)
				}
			}
			if len(lines) == 0 {
				return nil, i, fmt.Errorf("%s, among the recipients, holds no public key", c)
			}
		}
		for _, line := range lines {
			if _, err := parseRecipient(line); err != nil {
				return nil, i, err
			}
			if !slices.Contains(keys, line) {
				keys = append(keys, line)
			}
		}
	}
	pq := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !strings.HasPrefix(k, "age1pq1") })
	if len(pq) > 0 && len(pq) < len(keys) {
		return nil, 0, errors.New("post-quantum recipients (age1pq1…) and others cannot be mixed: the file would be no safer than its weakest recipient")
	}
	return keys, 0, nil
}
