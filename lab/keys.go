package lab

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// keyPair is an ed25519 key in OpenSSH's formats.
type keyPair struct {
	private []byte // the file that ssh and sshd read
	signer  ssh.Signer
}

func newKeyPair(comment string) (keyPair, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return keyPair{}, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{private: pem.EncodeToMemory(block), signer: signer}, nil
}

// public is the key as in authorized_keys and known_hosts, without a comment.
func (k keyPair) public() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())))
}

// The lab's files, in its folder.
const (
	keyFile        = "id_ed25519"
	knownHostsFile = "known_hosts"
	sshConfigFile  = "ssh_config"
	stateFile      = "state.json"
	controlSocket  = "control.sock"
)

// writeSSHFiles writes what a client needs to log in: the key, known_hosts
// from the keys that were made, and an ssh_config.
func writeSSHFiles(dir string, hosts []Host, client keyPair, hostKeys map[string]keyPair) error {
	var known, config strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&known, "%s,%s %s\n", h.Name, h.Address, hostKeys[h.Name].public())
		fmt.Fprintf(&config, "Host %s %s\n\tHostName %s\n\tUser %s\n", h.Name, h.Address, h.Address, h.user())
		fmt.Fprintf(&config, "\tIdentityFile %s\n\tIdentitiesOnly yes\n\tUserKnownHostsFile %s\n\tGlobalKnownHostsFile /dev/null\n",
			filepath.Join(dir, keyFile), filepath.Join(dir, knownHostsFile))
	}
	for name, content := range map[string][]byte{
		keyFile:          client.private,
		keyFile + ".pub": []byte(client.public() + "\n"),
		knownHostsFile:   []byte(known.String()),
		sshConfigFile:    []byte(config.String()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
