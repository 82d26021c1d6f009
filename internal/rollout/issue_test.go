package rollout

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/transport"
)

// The script makes a request without a common name as well, and what openssl has to say
// against one is told.
func TestIssueScript(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("there is no openssl")
	}
	dir := t.TempDir()
	run := func(name string, env ...string) transport.Output {
		cmd := exec.Command("sh", "-c", "target="+transport.Quote(filepath.Join(dir, "server.pem"))+" common_name="+transport.Quote(escapeSubject(name))+"\n"+issueScript)
		cmd.Env = append(os.Environ(), env...)
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		err := cmd.Run()
		if _, ok := err.(*exec.ExitError); err != nil && !ok {
			t.Fatal(err)
		}
		return transport.Output{Stdout: out.Bytes(), Stderr: said.Bytes(), ExitCode: cmd.ProcessState.ExitCode()}
	}
	for _, name := range []string{"", "pg01.example.org", "a/b+c\\d", "größe"} {
		out := run(name)
		_, csr, _ := strings.Cut(string(out.Stdout), "\n")
		block, _ := pem.Decode([]byte(csr))
		if out.ExitCode != 0 || block == nil {
			t.Errorf("%q: %s", name, message(out))
			continue
		}
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || request.Subject.CommonName != name {
			t.Errorf("%q: the subject is %v, %v", name, request.Subject, err)
		}
	}
	if out := run(strings.Repeat("a", 65)); out.ExitCode == 0 || !strings.Contains(message(out), "too long") {
		t.Errorf("a name that is too long: %s", message(out))
	}
}
