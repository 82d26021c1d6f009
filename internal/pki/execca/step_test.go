package execca_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/execca"
)

// fakeStep has this test's program act as step, with a CA that is in the folder that it
// names.
const fakeStep = "PGFLEET_TEST_FAKE_STEP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(fakeStep); dir != "" && filepath.Base(os.Args[0]) == "step" {
		if err := step(dir, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A stepToken is what a token of the fake says.
type stepToken struct {
	Subject, Provisioner string
	SANs                 []string
}

// step knows the two command lines that the example uses, and answers them as step 0.30
// and step-ca do, with the provisioners of docs/exec-ca.md and one as step-ca makes it.
func step(dir string, args []string) error {
	if len(args) < 3 || args[0] != "ca" || args[1] != "token" && args[1] != "sign" {
		return fmt.Errorf("the fake step does not know: %q", args)
	}
	if args[1] == "token" {
		t := stepToken{Subject: args[2]}
		for rest := args[3:]; len(rest) > 0; rest = rest[2:] {
			switch {
			case len(rest) > 1 && rest[0] == "--provisioner":
				t.Provisioner = rest[1]
			case len(rest) > 1 && rest[0] == "--san":
				t.SANs = append(t.SANs, rest[1])
			default:
				return fmt.Errorf("the fake step does not know: %q", args)
			}
		}
		if !slices.Contains([]string{"postgres-server", "postgres-client", "admin"}, t.Provisioner) {
			return fmt.Errorf("invalid value '%s' for flag '--provisioner'", t.Provisioner)
		}
		if password, err := os.ReadFile(os.Getenv("STEP_PROVISIONER_PASSWORD_FILE")); err != nil || string(password) != "pw" {
			return errors.New("failed to decrypt JWK")
		}
		if len(t.SANs) == 0 {
			t.SANs = []string{t.Subject}
		}
		return json.NewEncoder(os.Stdout).Encode(t)
	}
	if len(args) != 6 || args[4] != "--not-after" {
		return fmt.Errorf("the fake step does not know: %q", args)
	}
	return stepSign(dir, args[2], args[3], args[5])
}

func stepSign(dir, csrFile, certFile, notAfter string) error {
	var t stepToken
	if err := json.Unmarshal([]byte(os.Getenv("STEP_TOKEN")), &t); err != nil {
		return fmt.Errorf("error parsing flag '--token': %w", err)
	}
	text, err := os.ReadFile(csrFile)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	if !strings.EqualFold(csr.Subject.CommonName, t.Subject) {
		return fmt.Errorf("token subject '%s' and CSR CommonName '%s' do not match", t.Subject, csr.Subject.CommonName)
	}
	lifetime, err := time.ParseDuration(notAfter)
	if err != nil {
		return err
	}
	if most := 2160 * time.Hour; lifetime > most {
		return fmt.Errorf("The request was forbidden by the certificate authority: requested duration of %v is more than the authorized maximum certificate duration of %v.", lifetime, most+time.Minute)
	}
	cert := &x509.Certificate{
		Subject: csr.Subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	switch t.Provisioner {
	case "postgres-server":
		cert.ExtKeyUsage = cert.ExtKeyUsage[:1]
	case "postgres-client":
		cert.ExtKeyUsage = cert.ExtKeyUsage[1:]
		t.SANs = nil
	}
	for _, san := range t.SANs {
		if ip := net.ParseIP(san); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, san)
		}
	}
	if cert.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	caText, err := os.ReadFile(filepath.Join(dir, "issuing.pem"))
	if err != nil {
		return err
	}
	keyText, err := os.ReadFile(filepath.Join(dir, "issuing.key"))
	if err != nil {
		return err
	}
	block, _ = pem.Decode(caText)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	key, err := x509.ParseECPrivateKey(keyText)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, csr.PublicKey, key)
	if err != nil {
		return err
	}
	return os.WriteFile(certFile, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), caText...), 0o600)
}

// TestStep runs the example with a program that stands in for step, and with the real
// step and step-ca of the folder that PGFLEET_TEST_STEP names.
func TestStep(t *testing.T) {
	program := example(t, "step")
	t.Run("stand-in", func(t *testing.T) {
		a := newAuthority(t)
		dir := t.TempDir()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalECPrivateKey(a.key)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string][]byte{"issuing.pem": []byte(encode(a.issuing)), "issuing.key": key, "pw": []byte("pw")} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(self, filepath.Join(dir, "step")); err != nil {
			t.Fatal(err)
		}
		t.Setenv(fakeStep, dir)
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		t.Setenv("STEP_PROVISIONER_PASSWORD_FILE", filepath.Join(dir, "pw"))
		testStep(t, program, a.root)
	})
	if bin := os.Getenv("PGFLEET_TEST_STEP"); bin != "" {
		t.Run("real", func(t *testing.T) { testStep(t, program, realStep(t, bin)) })
	}
}

// realStep makes and starts a step-ca with the provisioners of docs/exec-ca.md, and
// returns its root.
func realStep(t *testing.T, bin string) *x509.Certificate {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("STEPPATH", filepath.Join(dir, "step"))
	t.Setenv("STEP_PROVISIONER_PASSWORD_FILE", filepath.Join(dir, "pw"))
	for name, text := range map[string]string{
		"pw":         "pw",
		"server.tpl": `{"subject": {"commonName": {{ toJson .Subject.CommonName }}}, "sans": {{ toJson .SANs }}, "keyUsage": ["digitalSignature"], "extKeyUsage": ["serverAuth"]}`,
		"client.tpl": `{"subject": {"commonName": {{ toJson .Subject.CommonName }}}, "keyUsage": ["digitalSignature"], "extKeyUsage": ["clientAuth"]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("step", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("step %v: %v\n%s", args, err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	run("ca", "init", "--deployment-type", "standalone", "--name", "test", "--dns", "localhost", "--address", address, "--provisioner", "admin", "--password-file", "pw", "--provisioner-password-file", "pw")
	for _, usage := range []string{"server", "client"} {
		run("ca", "provisioner", "add", "postgres-"+usage, "--type", "JWK", "--create", "--password-file", "pw", "--x509-max-dur", "2160h", "--x509-template", usage+".tpl")
	}
	cmd := exec.Command("step-ca", "--password-file", filepath.Join(dir, "pw"), filepath.Join(dir, "step", "config", "ca.json"))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, err := os.ReadFile(filepath.Join(dir, "step", "certs", "root_ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func testStep(t *testing.T, program string, root *x509.Certificate) {
	signer := func(args ...string) *execca.Signer {
		t.Helper()
		s, err := execca.New(execca.Config{Command: append([]string{program}, args...), Dir: t.TempDir(), Roots: []*x509.Certificate{root}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := signer("postgres-server", "postgres-client")
	csr, _ := request(t, "db1.example")
	client, _ := request(t, "App_user")
	for _, test := range []struct {
		csr []byte
		o   pki.Options
	}{{csr, serverOptions()}, {client, clientOptions("App_user")}} {
		cert, err := s.Issue(t.Context(), test.csr, test.o)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := pki.Inspect(cert)
		if err != nil || len(leaf.Usages) != 1 || leaf.Usages[0] != test.o.Usage || strings.Count(string(cert), "BEGIN") != 2 {
			t.Errorf("a certificate of %v for %v: %v\n%s", leaf.Subject, leaf.Usages, err, cert)
		}
	}
	fails := func(s *execca.Signer, csr []byte, o pki.Options, wants ...string) {
		t.Helper()
		_, err := s.Issue(t.Context(), csr, o)
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		}
	}
	// A provisioner without a template puts the common name among the host names.
	fails(signer("admin", "admin"), client, clientOptions("App_user"), "the name app_user is not declared")
	long := serverOptions()
	long.Validity = 3000 * time.Hour
	fails(s, csr, long, "the CA does not sign this: ", "more than the authorized maximum certificate duration of 2160h1m0s", "ask for less with lifetime in fleet.toml")
	fails(signer("none", "none"), csr, serverOptions(), "the CA does not sign this: invalid value 'none' for flag '--provisioner'")
	fails(s, client, serverOptions(), "token subject 'db1.example' and CSR CommonName 'App_user' do not match")
	fails(s, csr, clientOptions("-x"), "step takes no certificate for the name '-x'")
	fails(signer("one"), csr, serverOptions(), "its arguments are", "correct sign in [ca]")
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatal(err)
	}
	alone := t.TempDir()
	if err := os.Symlink(strings.TrimSpace(string(python)), filepath.Join(alone, "python3")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", alone)
	fails(s, csr, serverOptions(), "cannot reach its CA: ", "install step")
}
