// Package awsserver is a test server with the part of AWS Secrets Manager's API that
// the store uses, after the API reference
// (https://docs.aws.amazon.com/secretsmanager/latest/apireference/). It checks the
// signature of each request and refuses what it does not know. It has not been
// compared with the service.
package awsserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
)

// What requests must be signed with. The key is made up.
const (
	Region    = "eu-central-1"
	KeyID     = "AKIATESTSERVER"
	SecretKey = "test-server-secret-key"
)

const (
	current  = "AWSCURRENT"
	previous = "AWSPREVIOUS"
	// pageSize is small, so that clients have to ask for further pages.
	pageSize = 2
	// maxLabels is the quota of labels over all versions of a secret.
	maxLabels = 20
	maxValue  = 65536
)

// A Server is the Secrets Manager of one account in one region. It may be used by
// several goroutines and processes at once.
type Server struct {
	URL    string
	Faults *faults.Injector

	mu      sync.Mutex
	secrets map[string]*secret
	denied  map[string]bool
	unknown []string
	clock   time.Time
}

type secret struct {
	versions []*version // oldest first
	deleted  bool
}

type version struct {
	id      string
	text    *string
	binary  []byte
	labels  []string
	created time.Time
}

// New starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{secrets: map[string]*secret{}, denied: map[string]bool{}, clock: time.Now()}
	s.Faults = faults.New(s)
	h := httptest.NewServer(s.Faults)
	s.URL = h.URL
	t.Cleanup(h.Close)
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, u := range s.unknown {
			t.Errorf("the test server does not know %s", u)
		}
	})
	return s
}

// Env returns the environment with the credentials, and without a file that could hold
// others.
func (s *Server) Env() map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": KeyID, "AWS_SECRET_ACCESS_KEY": SecretKey, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true",
	}
}

// Deny refuses an operation, such as "PutSecretValue", as a policy does.
func (s *Server) Deny(operation string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied[operation] = true
}

// Read returns the string that GetSecretValue gives an application.
func (s *Server) Read(name string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sec := s.secrets[name]; sec != nil {
		if v := sec.with(current); v != nil && v.text != nil {
			return *v.text, true
		}
	}
	return "", false
}

// Write writes a new current version, as people do by other means.
func (s *Server) Write(name, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sec := s.secrets[name]
	if sec == nil {
		sec = &secret{}
		s.secrets[name] = sec
	}
	id := fmt.Sprintf("written-by-somebody-else-%012d", len(sec.versions))
	sec.versions = append(sec.versions, &version{id: id, text: &text, created: s.now()})
	sec.label(current, id)
}

// now is later at each call, by what a timestamp of the service can tell apart.
func (s *Server) now() time.Time {
	s.clock = s.clock.Add(time.Millisecond)
	return s.clock
}

func (sec *secret) find(id string) *version {
	for _, v := range sec.versions {
		if v.id == id {
			return v
		}
	}
	return nil
}

func (sec *secret) with(label string) *version {
	for _, v := range sec.versions {
		if slices.Contains(v.labels, label) {
			return v
		}
	}
	return nil
}

// label gives a label to the version with this ID, "" for none. AWSPREVIOUS follows
// AWSCURRENT.
func (sec *secret) label(label, id string) {
	had := sec.with(label)
	if had != nil {
		if had.id == id {
			return
		}
		had.labels = slices.DeleteFunc(had.labels, func(l string) bool { return l == label })
	}
	if v := sec.find(id); v != nil {
		v.labels = append(v.labels, label)
	}
	if label == current && had != nil {
		sec.label(previous, had.id)
	}
}

// An apiError is an error of the API.
type apiError struct {
	code string
	text string
}

func refuse(code, format string, args ...any) *apiError {
	return &apiError{code, fmt.Sprintf(format, args...)}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, failure := s.serve(r)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if failure != nil {
		w.WriteHeader(http.StatusBadRequest)
		out = map[string]any{"__type": failure.code, "Message": failure.text}
	}
	// What the client does not take is the client's.
	_ = json.NewEncoder(w).Encode(out)
}

// An input is all that the operations take. encoding/json matches names whatever their
// case, such as SecretId.
type input struct {
	SecretID            string
	Name                string
	Description         string
	ClientRequestToken  string
	SecretString        *string
	SecretBinary        []byte
	VersionStages       []string
	VersionID           string
	VersionStage        string
	MoveToVersionID     string
	RemoveFromVersionID string
	IncludeDeprecated   bool
	NextToken           string
	MaxResults          int
}

func (s *Server) serve(r *http.Request) (map[string]any, *apiError) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, refuse("InternalServiceError", "reading the request: %v", err)
	}
	if failure := authenticate(r, body); failure != nil {
		return nil, failure
	}
	operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	handlers := map[string]func(input) (map[string]any, *apiError){
		"CreateSecret": s.createSecret, "PutSecretValue": s.putSecretValue, "GetSecretValue": s.getSecretValue,
		"ListSecretVersionIds": s.listSecretVersionIDs, "UpdateSecretVersionStage": s.updateSecretVersionStage, "DeleteSecret": s.deleteSecret,
	}
	handle := handlers[operation]
	if !ok || handle == nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		s.unknown = append(s.unknown, r.Method+" "+r.Header.Get("X-Amz-Target"))
		return nil, refuse("UnknownOperationException", "")
	}
	if s.denied[operation] {
		return nil, refuse("AccessDeniedException", "User is not authorized to perform: secretsmanager:%s", operation)
	}
	var in input
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		s.unknown = append(s.unknown, fmt.Sprintf("%s: %v", operation, err))
		return nil, refuse("SerializationException", "")
	}
	return handle(in)
}

// credential takes the header Authorization of Signature Version 4 apart.
var credential = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/([0-9]{8})/([^/]+)/secretsmanager/aws4_request, SignedHeaders=([^,]+), Signature=[0-9a-f]{64}$`)

// authenticate makes the signature once more and compares.
func authenticate(r *http.Request, body []byte) *apiError {
	got := r.Header.Get("Authorization")
	m := credential.FindStringSubmatch(got)
	if m == nil {
		return refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	if m[1] != KeyID {
		return refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || m[3] != Region {
		return refuse("InvalidSignatureException", "Credential should be scoped to a valid region.")
	}
	again, err := http.NewRequestWithContext(context.Background(), r.Method, "http://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return refuse("InvalidSignatureException", "%v", err)
	}
	for _, name := range strings.Split(m[4], ";") {
		if values := r.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	sum := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: KeyID, SecretAccessKey: SecretKey}, again, hex.EncodeToString(sum[:]), "secretsmanager", Region, at)
	if err != nil || again.Header.Get("Authorization") != got {
		return refuse("InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
	}
	return nil
}

var validName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,512}$`)

func (s *Server) find(in input) (*secret, *apiError) {
	sec := s.secrets[in.SecretID]
	switch {
	case sec == nil:
		return nil, refuse("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	case sec.deleted:
		return nil, refuse("InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
	}
	return sec, nil
}

func checkWrite(in input) *apiError {
	switch {
	case len(in.ClientRequestToken) < 32 || len(in.ClientRequestToken) > 64:
		return refuse("InvalidParameterException", "ClientRequestToken must be 32-64 characters long.")
	case (in.SecretString == nil) == (in.SecretBinary == nil):
		return refuse("InvalidRequestException", "You must provide either SecretString or SecretBinary.")
	case in.SecretString != nil && (*in.SecretString == "" || len(*in.SecretString) > maxValue):
		return refuse("InvalidParameterException", "SecretString must be 1-%d bytes long.", maxValue)
	}
	return nil
}

func (s *Server) createSecret(in input) (map[string]any, *apiError) {
	if !validName.MatchString(in.Name) {
		return nil, refuse("ValidationException", "Invalid name.")
	}
	if failure := checkWrite(in); failure != nil {
		return nil, failure
	}
	if sec := s.secrets[in.Name]; sec != nil {
		v := sec.find(in.ClientRequestToken)
		switch {
		case sec.deleted:
			return nil, refuse("InvalidRequestException", "You can't create this secret because a secret with this name is already scheduled for deletion.")
		case v == nil || v.text == nil || *v.text != *in.SecretString:
			return nil, refuse("ResourceExistsException", "The operation failed because the secret %s already exists.", in.Name)
		}
		return map[string]any{"Name": in.Name, "VersionId": v.id}, nil
	}
	sec := &secret{versions: []*version{{id: in.ClientRequestToken, text: in.SecretString, binary: in.SecretBinary, labels: []string{current}, created: s.now()}}}
	s.secrets[in.Name] = sec
	return map[string]any{"Name": in.Name, "VersionId": in.ClientRequestToken}, nil
}

func (s *Server) putSecretValue(in input) (map[string]any, *apiError) {
	sec, failure := s.find(in)
	if failure == nil {
		failure = checkWrite(in)
	}
	if failure != nil {
		return nil, failure
	}
	if v := sec.find(in.ClientRequestToken); v != nil {
		if v.text == nil || in.SecretString == nil || *v.text != *in.SecretString {
			return nil, refuse("ResourceExistsException", "A version with that ClientRequestToken exists already, with another value.")
		}
		return map[string]any{"Name": in.SecretID, "VersionId": v.id, "VersionStages": v.labels}, nil
	}
	labels := in.VersionStages
	if len(labels) == 0 {
		labels = []string{current}
	}
	if sec.with(current) == nil && !slices.Contains(labels, current) {
		labels = append(slices.Clone(labels), current)
	}
	total := len(labels)
	for _, v := range sec.versions {
		total += len(v.labels)
	}
	if total > maxLabels {
		return nil, refuse("LimitExceededException", "The request failed because it would exceed the quota of %d labels.", maxLabels)
	}
	v := &version{id: in.ClientRequestToken, text: in.SecretString, binary: in.SecretBinary, created: s.now()}
	sec.versions = append(sec.versions, v)
	for _, label := range labels {
		sec.label(label, v.id)
	}
	return map[string]any{"Name": in.SecretID, "VersionId": v.id, "VersionStages": v.labels}, nil
}

func (s *Server) getSecretValue(in input) (map[string]any, *apiError) {
	sec, failure := s.find(in)
	if failure != nil {
		return nil, failure
	}
	if in.VersionID != "" && (len(in.VersionID) < 32 || len(in.VersionID) > 64) {
		return nil, refuse("InvalidParameterException", "VersionId must be 32-64 characters long.")
	}
	v := sec.with(cmp.Or(in.VersionStage, current))
	if in.VersionID != "" {
		v = sec.find(in.VersionID)
	}
	if v == nil || in.VersionID != "" && in.VersionStage != "" && !slices.Contains(v.labels, in.VersionStage) {
		return nil, refuse("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for staging label: %s", cmp.Or(in.VersionStage, current))
	}
	out := map[string]any{"Name": in.SecretID, "VersionId": v.id, "VersionStages": v.labels, "CreatedDate": seconds(v.created)}
	if v.text != nil {
		out["SecretString"] = *v.text
	} else {
		out["SecretBinary"] = v.binary
	}
	return out, nil
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (s *Server) listSecretVersionIDs(in input) (map[string]any, *apiError) {
	sec, failure := s.find(in)
	if failure != nil {
		return nil, failure
	}
	var all []map[string]any
	for _, v := range sec.versions {
		if len(v.labels) > 0 || in.IncludeDeprecated {
			all = append(all, map[string]any{"VersionId": v.id, "VersionStages": v.labels, "CreatedDate": seconds(v.created)})
		}
	}
	first := 0
	if in.NextToken != "" {
		var err error
		if first, err = strconv.Atoi(in.NextToken); err != nil || first > len(all) {
			return nil, refuse("InvalidNextTokenException", "The NextToken value is invalid.")
		}
	}
	out := map[string]any{"Name": in.SecretID}
	end := min(len(all), first+pageSize)
	out["Versions"] = all[first:end]
	if end < len(all) {
		out["NextToken"] = strconv.Itoa(end)
	}
	return out, nil
}

func (s *Server) updateSecretVersionStage(in input) (map[string]any, *apiError) {
	sec, failure := s.find(in)
	if failure != nil {
		return nil, failure
	}
	has := sec.with(in.VersionStage)
	switch {
	case in.VersionStage == "" || in.MoveToVersionID == "" && in.RemoveFromVersionID == "":
		return nil, refuse("InvalidParameterException", "You must specify MoveToVersionId or RemoveFromVersionId.")
	case in.MoveToVersionID != "" && sec.find(in.MoveToVersionID) == nil:
		return nil, refuse("ResourceNotFoundException", "Secrets Manager can't find the specified secret version.")
	case in.RemoveFromVersionID != "" && (has == nil || has.id != in.RemoveFromVersionID):
		return nil, refuse("InvalidParameterException", "The staging label %s is not attached to version %s.", in.VersionStage, in.RemoveFromVersionID)
	case in.MoveToVersionID == "" && in.VersionStage == current:
		return nil, refuse("InvalidParameterException", "You can't remove the staging label AWSCURRENT without moving it to another version.")
	case in.RemoveFromVersionID == "" && has != nil && has.id != in.MoveToVersionID:
		return nil, refuse("InvalidParameterException", "The parameter RemoveFromVersionId can't be empty. Staging label %s is currently attached to version %s, so you must explicitly reference that version in RemoveFromVersionId.", in.VersionStage, has.id)
	}
	sec.label(in.VersionStage, in.MoveToVersionID)
	return map[string]any{"Name": in.SecretID}, nil
}

func (s *Server) deleteSecret(in input) (map[string]any, *apiError) {
	sec, failure := s.find(in)
	if failure != nil {
		return nil, failure
	}
	sec.deleted = true
	return map[string]any{"Name": in.SecretID}, nil
}
