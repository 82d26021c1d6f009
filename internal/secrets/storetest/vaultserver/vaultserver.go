// Package vaultserver is a test server with the part of OpenBao's and Vault's HTTP API
// that the store uses, and that people use beside it: KV version 2, tokens with
// policies, AppRole; and with that part of the PKI engine that signs requests. It answers as OpenBao 2.6 does, which its own test compares, and
// refuses what it does not know.
package vaultserver

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
)

// A Server is a server with one mount of KV version 2, "secret", and one of version 1,
// "kv1". It may be used by several goroutines and processes at once.
type Server struct {
	URL    string
	Root   string // a token that may do everything
	Faults *faults.Injector

	mu      sync.Mutex
	sealed  bool
	mounts  map[string]*mount
	engines map[string]*pkiMount // of PKI, which a request has mounted
	tokens  map[string][]Rule    // nil rules: everything
	roles   map[string]*role     // by role_id
	logins  int
	ignored []string // what was refused because it is not known
}

// A Rule is a rule of a policy: what may be done at a path. A path that ends in * means
// all that begin so, as in the policies of the real servers.
type Rule struct {
	Path         string
	Capabilities []string // "read", "create", "update", "delete", "list"
}

type role struct {
	rules   []Rule
	secrets map[string]int // secret_id and how often it may be used; 0 for any number
}

// New starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		Root:    "root-" + rand.Text(),
		mounts:  map[string]*mount{"secret": newMount(), "kv1": nil},
		engines: map[string]*pkiMount{},
		tokens:  map[string][]Rule{},
		roles:   map[string]*role{},
	}
	s.tokens[s.Root] = nil
	s.Faults = faults.New(s)
	h := httptest.NewServer(s.Faults)
	s.URL = h.URL
	t.Cleanup(h.Close)
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.ignored {
			t.Errorf("the test server does not know %s", r)
		}
	})
	return s
}

// Token makes a token with a policy of these rules. It may also look itself up, as the
// policy "default" allows.
func (s *Server) Token(rules ...Rule) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token(rules)
}

func (s *Server) token(rules []Rule) string {
	token := "hvs." + rand.Text()
	s.tokens[token] = append([]Rule{}, rules...)
	return token
}

// Revoke ends all tokens but Root, as if they had run out.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = map[string][]Rule{s.Root: nil}
}

// AppRole makes a role for AppRole, whose tokens get a policy of these rules, and
// returns its role_id.
func (s *Server) AppRole(rules ...Rule) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := rand.Text()
	s.roles[id] = &role{append([]Rule{}, rules...), map[string]int{}}
	return id
}

// SecretID makes a secret_id that may be used so often; 0 for any number.
func (s *Server) SecretID(roleID string, uses int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := rand.Text()
	s.roles[roleID].secrets[id] = uses
	return id
}

// Logins returns how many logins have succeeded.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// Read returns the data that the latest version at a path of the mount "secret" gives
// an application, nil if there is none.
func (s *Server) Read(path string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sec := s.mounts["secret"].secrets[path]; sec != nil {
		if v := sec.versions[sec.current]; v.deleted.IsZero() {
			return v.data
		}
	}
	return nil
}

// Seal seals or unseals the server.
func (s *Server) Seal(sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = sealed
}

// An apiError is what is answered with a status.
type apiError struct {
	status int
	errors []string
}

func refuse(status int, format string, args ...any) *apiError {
	return &apiError{status, []string{fmt.Sprintf(format, args...)}}
}

// notFound is how both say that there is nothing.
func notFound() *apiError { return &apiError{http.StatusNotFound, []string{}} }

// An answer is what is answered otherwise.
type answer struct {
	status int // 0 for 200, or 204 without data
	data   any
	auth   any
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, failure := s.serve(r)
	w.Header().Set("Content-Type", "application/json")
	if failure != nil {
		w.WriteHeader(failure.status)
		writeJSON(w, map[string]any{"errors": failure.errors})
		return
	}
	if a.data == nil && a.auth == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if a.status != 0 {
		w.WriteHeader(a.status)
	}
	writeJSON(w, map[string]any{
		"request_id": rand.Text(), "lease_id": "", "renewable": false, "lease_duration": 0,
		"data": a.data, "wrap_info": nil, "warnings": nil, "auth": a.auth,
	})
}

func writeJSON(w http.ResponseWriter, v any) {
	// What the client does not take is the client's.
	_ = json.NewEncoder(w).Encode(v)
}

func (s *Server) serve(r *http.Request) (answer, *apiError) {
	if s.sealed {
		return answer{}, refuse(http.StatusServiceUnavailable, "Vault is sealed")
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		return answer{}, s.unknown(r)
	}
	if r.Header.Get("X-Vault-Namespace") != "" {
		return answer{}, refuse(http.StatusNotFound, "namespace not found")
	}
	body := map[string]any{}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		d := json.NewDecoder(r.Body)
		if err := d.Decode(&body); err != nil {
			body = map[string]any{}
		}
	}
	if path == "auth/approle/login" && (r.Method == http.MethodPost || r.Method == http.MethodPut) {
		return s.appRole(body)
	}
	rules, known := s.tokens[r.Header.Get("X-Vault-Token")]
	if known && path == "auth/token/lookup-self" && r.Method == http.MethodGet {
		return answer{data: map[string]any{"type": "service"}}, nil
	}
	if !known || strings.HasPrefix(path, "auth/") {
		return answer{}, refuse(http.StatusForbidden, "permission denied")
	}
	if name, ok := strings.CutPrefix(path, "sys/internal/ui/mounts/"); ok && r.Method == http.MethodGet {
		return s.preflight(name, rules)
	}
	if name, ok := strings.CutPrefix(path, "sys/mounts/"); ok && rules == nil {
		return s.mount(r, name, body)
	}
	name, rest, _ := strings.Cut(path, "/")
	m, mounted := s.mounts[name]
	capability, known := map[string]string{
		http.MethodGet: "read", http.MethodPost: "update", http.MethodPut: "update", http.MethodDelete: "delete",
	}[r.Method]
	if !known {
		return answer{}, s.unknown(r)
	}
	endpoint, secret, _ := strings.Cut(rest, "/")
	if capability == "update" && m != nil && (endpoint == "data" || endpoint == "metadata") && m.secrets[secret] == nil {
		capability = "create"
	}
	if rules != nil && !allowed(rules, path, capability) {
		return answer{}, refuse(http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
	}
	if engine := s.engines[name]; engine != nil {
		a, failure, known := engine.serve(r.Method, rest, body)
		if !known {
			return answer{}, s.unknown(r)
		}
		return a, failure
	}
	switch {
	case !mounted:
		return answer{}, refuse(http.StatusNotFound, "no handler for route %q. route entry not found.", path)
	case m == nil:
		return s.version1(r)
	}
	a, failure, known := m.serve(r.Method, endpoint, secret, r.URL.Query(), body)
	if !known {
		return answer{}, s.unknown(r)
	}
	return a, failure
}

// unknown notes what the server does not know, for which the test then fails.
func (s *Server) unknown(r *http.Request) *apiError {
	s.ignored = append(s.ignored, r.Method+" "+r.URL.Path)
	return refuse(http.StatusNotImplemented, "the test server does not know %s %s", r.Method, r.URL.Path)
}

func allowed(rules []Rule, path, capability string) bool {
	for _, rule := range rules {
		prefix, isPrefix := strings.CutSuffix(rule.Path, "*")
		if path != rule.Path && !(isPrefix && strings.HasPrefix(path, prefix)) {
			continue
		}
		for _, c := range rule.Capabilities {
			if c == capability {
				return true
			}
		}
	}
	return false
}

func (s *Server) preflight(name string, rules []Rule) (answer, *apiError) {
	m, mounted := s.mounts[name]
	mayAny := rules == nil
	for _, rule := range rules {
		mayAny = mayAny || strings.HasPrefix(rule.Path, name+"/")
	}
	if !mounted || !mayAny {
		return answer{}, refuse(http.StatusForbidden, "preflight capability check returned 403, please ensure client's policies grant access to path %q", name+"/")
	}
	version := "2"
	if m == nil {
		version = "1"
	}
	return answer{data: map[string]any{"type": "kv", "path": name + "/", "options": map[string]string{"version": version}}}, nil
}

func (s *Server) appRole(body map[string]any) (answer, *apiError) {
	roleID, _ := body["role_id"].(string)
	id, given := body["secret_id"].(string)
	if !given {
		return answer{}, refuse(http.StatusBadRequest, "missing secret_id")
	}
	r := s.roles[roleID]
	if r == nil {
		return answer{}, refuse(http.StatusBadRequest, "invalid role or secret ID")
	}
	uses, ok := r.secrets[id]
	if !ok {
		return answer{}, refuse(http.StatusBadRequest, "invalid role or secret ID")
	}
	switch uses {
	case 0:
	case 1:
		delete(r.secrets, id)
	default:
		r.secrets[id]--
	}
	s.logins++
	return answer{auth: map[string]any{
		"client_token": s.token(r.rules), "accessor": rand.Text(), "policies": []string{"default"}, "lease_duration": 2764800, "renewable": true, "token_type": "service",
	}}, nil
}

// version1 is a mount of KV version 1, which takes anything at any path and keeps no
// versions. This one forgets it.
func (s *Server) version1(r *http.Request) (answer, *apiError) {
	switch r.Method {
	case http.MethodGet:
		return answer{}, notFound()
	case http.MethodPost, http.MethodPut:
		return answer{}, nil
	}
	return answer{}, s.unknown(r)
}

func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
