package secrets

import "filippo.io/age"

// Identities reads age identities and SSH private keys from files, whose names are relative to base, and
// from environment variables, as "env:NAME". Those that are protected ask for their passphrase once they are needed.
func Identities(names []string, base string, lookupEnv func(string) (string, bool), passphrase func(prompt string) (Secret, error)) ([]age.Identity, error) {
	ids := &identities{names: names, base: base, lookupEnv: lookupEnv, passphrase: passphrase}
	return ids.load()
}

// ParseRecipients returns the recipients that public keys of age and SSH stand for.
func ParseRecipients(keys []string) ([]age.Recipient, error) {
	var list []age.Recipient
	for _, k := range keys {
		r, err := parseRecipient(k)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}
