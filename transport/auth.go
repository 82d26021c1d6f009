package transport

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// identities are the key files and the agents of a run: each read once, each
// passphrase asked for once, for all hosts.
type identities struct {
	mu     sync.Mutex
	files  map[string]*keyFileSigner
	agents map[string]*agentKeys
}

// agentKeys is what an agent holds.
type agentKeys struct {
	once    sync.Once
	conn    net.Conn
	signers []ssh.Signer
	err     error
}

// agent returns the keys of the agent on a socket.
func (ids *identities) agent(socket string) ([]ssh.Signer, error) {
	ids.mu.Lock()
	if ids.agents == nil {
		ids.agents = map[string]*agentKeys{}
	}
	a := ids.agents[socket]
	if a == nil {
		a = &agentKeys{}
		ids.agents[socket] = a
	}
	ids.mu.Unlock()
	a.once.Do(func() {
		if a.conn, a.err = net.Dial("unix", socket); a.err == nil {
			a.signers, a.err = agent.NewClient(a.conn).Signers()
		}
	})
	return a.signers, a.err
}

// close hangs up on the agents.
func (ids *identities) close() {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	for _, a := range ids.agents {
		if a.conn != nil {
			a.conn.Close()
		}
	}
	ids.agents = nil
}

// file returns the signer of a key file. The file is read now; a passphrase is
// asked for only once a host would accept the key.
func (ids *identities) file(path string, passphrase func(context.Context, string) ([]byte, error)) (*keyFileSigner, error) {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	if s := ids.files[path]; s != nil {
		return s, nil
	}
	s, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	s.ask = passphrase
	if ids.files == nil {
		ids.files = map[string]*keyFileSigner{}
	}
	ids.files[path] = s
	return s, nil
}

// A keyFileSigner signs with a private key from a file.
type keyFileSigner struct {
	path string
	pub  ssh.PublicKey
	pem  []byte // encrypted, until the passphrase is known
	ask  func(context.Context, string) ([]byte, error)

	mu     sync.Mutex
	signer ssh.AlgorithmSigner
	err    error // of the passphrase; asked for once
}

// readKeyFile reads a private key, and where it is encrypted in a format that
// hides the public key, its .pub file.
func readKeyFile(path string) (*keyFileSigner, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &keyFileSigner{path: path}
	signer, err := ssh.ParsePrivateKey(text)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		as, ok := signer.(ssh.AlgorithmSigner)
		if !ok {
			return nil, fmt.Errorf("%s: a key of type %s is not supported", path, signer.PublicKey().Type())
		}
		s.signer, s.pub = as, signer.PublicKey()
	case errors.As(err, &missing):
		s.pem, s.pub = text, missing.PublicKey
		if s.pub == nil {
			if s.pub, err = readPublicKey(path + ".pub"); err != nil {
				return nil, fmt.Errorf("%s is encrypted, and its public key cannot be read: %w", path, err)
			}
		}
	default:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// readPublicKey reads a public key or a certificate.
func readPublicKey(path string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// PublicKey implements ssh.Signer.
func (s *keyFileSigner) PublicKey() ssh.PublicKey { return s.pub }

// Sign implements ssh.Signer.
func (s *keyFileSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (s *keyFileSigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signer, err := s.unlock()
	if err != nil {
		return nil, err
	}
	return signer.SignWithAlgorithm(rand, data, algorithm)
}

// unlock asks for the passphrase when it is first needed. Others who need the
// same key wait for the answer.
func (s *keyFileSigner) unlock() (ssh.AlgorithmSigner, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signer != nil || s.err != nil {
		return s.signer, s.err
	}
	fail := func(err error, hint string) (ssh.AlgorithmSigner, error) {
		s.err = &Error{Kind: KindDenied, Op: "use the key " + s.path, Err: err, Hint: hint}
		return nil, s.err
	}
	if s.ask == nil {
		return fail(errors.New("it is encrypted and nobody can be asked for the passphrase"), "load it into the agent: ssh-add "+Quote(s.path))
	}
	// The question is the whole run's, not one host's: no host's timeout ends it.
	passphrase, err := s.ask(context.Background(), s.path)
	if err != nil {
		return fail(err, "")
	}
	key, err := ssh.ParseRawPrivateKeyWithPassphrase(s.pem, passphrase)
	clear(passphrase)
	if err != nil {
		return fail(errors.New("the passphrase is wrong"), "")
	}
	var signer ssh.Signer
	if c, ok := key.(crypto.Signer); ok {
		signer, err = ssh.NewSignerFromSigner(c)
	} else {
		signer, err = ssh.NewSignerFromKey(key)
	}
	as, ok := signer.(ssh.AlgorithmSigner)
	if err != nil || !ok {
		return fail(fmt.Errorf("a key of type %T is not supported", key), "")
	}
	s.signer = as
	return as, nil
}

// signers returns the keys to try on a host, in ssh's order: those that are
// configured, from the agent where it has them, then the agent's others unless
// IdentitiesOnly. tried describes each for the error message.
func (d *Dialer) signers(cfg sshConfig, identity string, tokens map[byte]string) (signers []ssh.Signer, tried []string, err error) {
	var fromAgent []ssh.Signer
	socket := os.Getenv("SSH_AUTH_SOCK")
	switch cfg.IdentityAgent {
	case "", "SSH_AUTH_SOCK":
	case "none":
		socket = ""
	default:
		socket = expandHome(expandTokens(cfg.IdentityAgent, tokens))
		if name, ok := strings.CutPrefix(socket, "$"); ok {
			socket = os.Getenv(name)
		}
	}
	if socket != "" {
		if fromAgent, err = d.identities.agent(socket); err != nil {
			d.log().Debug("the agent does not answer", "socket", socket, "err", err)
		}
	}
	seen := map[string]bool{}
	add := func(s ssh.Signer, what string) {
		if id := string(s.PublicKey().Marshal()); !seen[id] {
			seen[id] = true
			signers = append(signers, s)
			tried = append(tried, what)
		}
	}
	files := cfg.IdentityFiles
	if identity != "" {
		files = []string{identity}
	}
	for _, f := range files {
		path := expandHome(expandTokens(f, tokens))
		pub, _ := readPublicKey(path + ".pub")
		var signer ssh.Signer
		if pub != nil {
			signer = find(fromAgent, pub)
		}
		if signer == nil {
			s, err := d.identities.file(path, d.Passphrase)
			if err != nil {
				if identity != "" {
					return nil, nil, &Error{Kind: KindConfig, Op: "read the key " + f, Err: err}
				}
				if !errors.Is(err, os.ErrNotExist) {
					d.log().Debug("a key cannot be used", "file", path, "err", err)
				}
				continue
			}
			if signer = find(fromAgent, s.pub); signer == nil {
				signer = s
			}
		}
		// A certificate for the key: ssh looks for it beside the file.
		for _, c := range append([]string{path + "-cert.pub"}, cfg.CertificateFiles...) {
			if key, err := readPublicKey(expandHome(expandTokens(c, tokens))); err == nil {
				if cert, ok := key.(*ssh.Certificate); ok {
					if cs, err := ssh.NewCertSigner(cert, signer); err == nil {
						add(cs, f+" with its certificate")
					}
				}
			}
		}
		add(signer, f)
	}
	if !cfg.IdentitiesOnly {
		for _, s := range fromAgent {
			add(s, "the agent's "+ssh.FingerprintSHA256(s.PublicKey()))
		}
	}
	if len(signers) == 0 {
		return nil, nil, &Error{Kind: KindDenied, Op: "log in", Err: errors.New("there is no key: no agent, and none of ssh's usual key files"),
			Hint: "name one in fleet.toml ([ssh] identity), or load one with ssh-add"}
	}
	return signers, tried, nil
}

// find returns the signer for a public key, or nil.
func find(signers []ssh.Signer, pub ssh.PublicKey) ssh.Signer {
	for _, s := range signers {
		if string(s.PublicKey().Marshal()) == string(pub.Marshal()) {
			return s
		}
	}
	return nil
}
