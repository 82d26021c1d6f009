package vaultstore

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// maxAnswer is the most that is read of an answer: KV's own limit for a secret is a
// megabyte by default.
const maxAnswer = 16 << 20

var (
	// errCheckAndSet: another version has been written.
	errCheckAndSet = errors.New("check-and-set failed")
	errForbidden   = errors.New("permission denied")
)

// newClient returns a client that takes nothing from the environment but a proxy.
func newClient(c Config) (*api.Client, error) {
	u, err := url.Parse(c.Address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the address %q is not of the form https://HOST:PORT", c.Address)
	}
	if u.User != nil {
		return nil, errors.New("the address holds a user or a password, which are not used")
	}
	config := api.NewConfig()
	config.DisableEnvironment = true
	config.Address = c.Address
	config.Timeout = c.Timeout
	// A server whose leader changes is back within moments.
	config.MaxRetries = 3
	config.MinRetryWait = c.RetryWait
	config.MaxRetryWait = 2 * c.RetryWait
	if c.CAFile != "" {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: c.CAFile}); err != nil {
			return nil, fmt.Errorf("certificates of the CA: %w", err)
		}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	if c.Namespace != "" {
		client.SetNamespace(c.Namespace)
	}
	return client, nil
}

// operation does something that concerns a path within the store's time limit, and
// gives errors the secret's name.
func (s *Store) operation(ctx context.Context, path string, do func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	err := ctx.Err()
	if err == nil {
		err = s.checkPath(path)
	}
	if err == nil {
		err = do(limited)
	}
	if err == nil {
		return nil
	}
	failure := &secrets.Error{Store: s.Name(), Path: path, Err: err}
	var h *hintedError
	switch {
	case ctx.Err() != nil:
		failure.Err = ctx.Err()
	case errors.As(err, &h) && error(h) == err: //nolint:errorlint // the outermost error itself
		failure.Err, failure.Hint = h.err, h.hint
	case errors.Is(err, errCheckAndSet):
		failure.Err = secrets.ErrConflict
	}
	return failure
}

// checkPath refuses paths that would be another's on the way to the server, which
// takes . and .. for what they are in a file system.
func (s *Store) checkPath(secret string) error {
	if strings.HasPrefix(secret+"/", s.config.Versions+"/") {
		return fmt.Errorf("in the folder %s pgfleet keeps the versions of other secrets", s.config.Versions)
	}
	if path.Clean("/"+secret) != "/"+secret {
		return errors.New(`the path must be words with / between them, such as "prod/appuser"`)
	}
	return nil
}

// A hintedError carries a hint up to the store's error.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() + "; " + e.hint }
func (e *hintedError) Unwrap() error { return e.err }

func hint(err error, text string) error { return &hintedError{err, text} }

// A kvValue is a version at a path: its number, 0 if there is none, and its keys, nil
// if it was deleted.
type kvValue struct {
	version   int
	created   time.Time
	data      secrets.JSONKeys
	destroyed bool
}

type kvMetadata struct {
	Version   int       `json:"version"`
	Created   time.Time `json:"created_time"`
	Destroyed bool      `json:"destroyed"`
}

// read reads a version at a path, the latest for 0.
func (s *Store) read(ctx context.Context, secret string, version int) (kvValue, error) {
	name := s.config.Mount + "/data/" + secret
	query := url.Values{}
	if version > 0 {
		query.Set("version", strconv.Itoa(version))
	}
	var answer struct {
		Data struct {
			Data     secrets.JSONKeys `json:"data"`
			Metadata *kvMetadata      `json:"metadata"`
		} `json:"data"`
		Errors []string `json:"errors"`
	}
	found, err := s.get404(ctx, name, query, &answer)
	if err != nil {
		return kvValue{}, err
	}
	m := answer.Data.Metadata
	switch {
	case m == nil && found:
		return kvValue{}, s.notVersioned()
	case m == nil && len(answer.Errors) > 0: // what is only not there comes without a word
		return kvValue{}, s.missing(answer.Errors)
	case m == nil:
		return kvValue{}, nil
	}
	return kvValue{version: m.Version, created: m.Created, data: answer.Data.Data, destroyed: m.Destroyed}, nil
}

// write writes the next version at a path if the latest still is the one of this
// number, and returns the new number.
func (s *Store) write(ctx context.Context, secret string, data secrets.JSONKeys, latest int) (int, error) {
	name := s.config.Mount + "/data/" + secret
	var written *api.Secret
	err := s.withToken(ctx, func() (err error) {
		written, err = s.client.Logical().WriteWithContext(ctx, name, map[string]any{
			"data": data, "options": map[string]any{api.KVOptionCheckAndSet: latest},
		})
		return err
	})
	if err != nil {
		return 0, s.explain(ctx, err, "write", name)
	}
	if written != nil {
		if n, ok := written.Data["version"].(json.Number); ok {
			if number, err := n.Int64(); err == nil {
				return int(number), nil
			}
		}
	}
	return 0, s.notVersioned()
}

// get404 reads JSON. It reports whether there was something, but also takes what a
// server says with "not found", which for a deleted version is its metadata.
func (s *Store) get404(ctx context.Context, name string, query url.Values, into any) (found bool, err error) {
	var body []byte
	err = s.withToken(ctx, func() error {
		resp, err := s.client.Logical().ReadRawWithDataWithContext(ctx, name, query)
		if resp != nil {
			defer resp.Body.Close()
		}
		if err != nil && !isStatus(err, http.StatusNotFound) {
			return err
		}
		found = err == nil
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return err
	})
	if err != nil {
		return false, s.explain(ctx, err, "read", name)
	}
	if json.Unmarshal(body, into) != nil { // the error could quote a value
		return false, hint(fmt.Errorf("%s answers with something else than OpenBao's or Vault's JSON", s.config.Address), "is that the address of the server?")
	}
	return found, nil
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*api.ResponseError](err)
	return ok && e.StatusCode == status
}

// withToken makes a request with a token. One that was got by logging in may have run
// out: it then logs in once more.
func (s *Store) withToken(ctx context.Context, request func() error) error {
	login, err := s.authenticate(ctx, 0)
	if err != nil {
		return err
	}
	err = request()
	if !isStatus(err, http.StatusForbidden) || s.config.RoleID == (secrets.Ref{}) {
		return err
	}
	if _, invalid := s.client.Auth().Token().LookupSelfWithContext(ctx); !isStatus(invalid, http.StatusForbidden) {
		return err // it is the policy that does not allow it
	}
	if _, loginErr := s.authenticate(ctx, login); loginErr != nil {
		return err
	}
	return request()
}

// authenticate makes sure that there is a token, another one than that of the login
// which did not serve. It returns the number of the login.
func (s *Store) authenticate(ctx context.Context, failed int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.login > failed {
		return s.login, nil
	}
	if s.config.RoleID == (secrets.Ref{}) {
		token, err := s.token(ctx)
		if err != nil {
			return 0, err
		}
		s.setToken(strings.TrimSpace(string(token.Expose())))
	} else if err := s.appRole(ctx); err != nil {
		return 0, err
	}
	s.login++
	return s.login, nil
}

// token finds the token as the server's own command does.
func (s *Store) token(ctx context.Context) (secrets.Secret, error) {
	if s.config.Token != (secrets.Ref{}) {
		return s.config.Read(ctx, s.config.Token)
	}
	for _, name := range []string{"BAO_TOKEN", "VAULT_TOKEN"} {
		if v, _ := s.config.LookupEnv(name); v != "" {
			return secrets.NewString(v), nil
		}
	}
	token, err := s.config.Read(ctx, secrets.Ref{Store: "file", Path: "~/.vault-token"})
	if errors.Is(err, secrets.ErrNotFound) {
		err = hint(errors.New("there is no token"), "set BAO_TOKEN or VAULT_TOKEN, log in with bao login, or say token, or role_id and secret_id, in [secrets."+s.Name()+"]")
	}
	return token, err
}

// appRole logs in (https://openbao.org/api-docs/auth/approle/#login-with-approle).
func (s *Store) appRole(ctx context.Context) error {
	role, err := s.config.Read(ctx, s.config.RoleID)
	if err != nil {
		return err
	}
	login := map[string]any{"role_id": strings.TrimSpace(string(role.Expose()))}
	if s.config.SecretID != (secrets.Ref{}) {
		id, err := s.config.Read(ctx, s.config.SecretID)
		if err != nil {
			return err
		}
		login["secret_id"] = strings.TrimSpace(string(id.Expose()))
	}
	name := "auth/" + s.config.Auth + "/login"
	answer, err := s.client.Logical().WriteWithContext(ctx, name, login)
	if e, ok := errors.AsType[*api.ResponseError](err); ok && (e.StatusCode == http.StatusBadRequest || e.StatusCode == http.StatusForbidden) {
		return hint(fmt.Errorf("the login at %s was refused", name), "look at role_id and secret_id: the secret_id may have been used up or have run out")
	}
	if err != nil {
		return err
	}
	if answer == nil || answer.Auth == nil {
		return fmt.Errorf("the login at %s gave no token", name)
	}
	s.setToken(answer.Auth.ClientToken)
	return nil
}

func (s *Store) setToken(token string) {
	if s.config.Redactor != nil {
		s.config.Redactor.Add(secrets.NewString(token))
	}
	s.client.SetToken(token)
}

// checkMount says if the mount is not there or keeps no versions, as far as the token
// may know.
func (s *Store) checkMount(ctx context.Context) error {
	var answer struct {
		Data struct {
			Type    string            `json:"type"`
			Options map[string]string `json:"options"`
		} `json:"data"`
	}
	found, err := s.get404(ctx, "sys/internal/ui/mounts/"+s.config.Mount, nil, &answer)
	switch {
	case errors.Is(err, errForbidden), err == nil && !found:
		// Without a right to anything in the mount, or because there is none: then
		// the requests themselves have failed, or will.
		return nil
	case err != nil:
		return err
	case answer.Data.Type != "" && (answer.Data.Type != "kv" || answer.Data.Options["version"] != "2"):
		return s.notVersioned()
	}
	return nil
}

// missing explains a "not found" that is not about the secret.
func (s *Store) missing(said []string) error {
	text := strings.Join(said, "; ")
	switch {
	case strings.Contains(text, "no handler for route"):
		return hint(fmt.Errorf("there is no mount %s", s.config.Mount), "the mounts there are: bao secrets list; name one as mount in [secrets."+s.Name()+"]")
	case strings.Contains(text, "namespace not found"):
		return hint(fmt.Errorf("there is no namespace %s", s.config.Namespace), "correct namespace in [secrets."+s.Name()+"]")
	}
	return fmt.Errorf("%s answers with status %d: %s", s.config.Address, http.StatusNotFound, text)
}

func (s *Store) notVersioned() error {
	return hint(fmt.Errorf("the mount %s is not one of the KV engine, version 2", s.config.Mount),
		"name another mount, or turn its versions on: bao kv enable-versioning "+s.config.Mount)
}

// explain turns an error of the client into one that says what to do. The values that
// were sent are not part of the client's errors; what the server says is shown only
// where it is JSON, as its own errors are.
func (s *Store) explain(ctx context.Context, err error, verb, name string) error {
	var e *api.ResponseError
	var unknownCA x509.UnknownAuthorityError
	var urlError *url.Error
	switch {
	case errors.As(err, &e):
		return s.explainStatus(e, verb, name)
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
		return hint(fmt.Errorf("%s did not answer within %v", s.config.Address, s.config.Timeout), "is the server up, and is that its address?")
	case errors.As(err, &unknownCA):
		return hint(err, "name the certificate of the server's CA as ca_file in [secrets."+s.Name()+"]")
	case errors.As(err, &urlError):
		return hint(fmt.Errorf("%s cannot be reached: %w", s.config.Address, urlError.Err), "is the server up, and is that its address?")
	}
	return err
}

func (s *Store) explainStatus(e *api.ResponseError, verb, name string) error {
	said := ""
	if !e.RawError {
		said = strings.Join(e.Errors, "; ")
	}
	capabilities := `"read"`
	if verb == "write" {
		capabilities = `"create" and "update"`
	}
	switch {
	case e.StatusCode == http.StatusForbidden:
		return hint(fmt.Errorf("%w: %s may not be %s", errForbidden, name, map[string]string{"read": "read", "write": "written"}[verb]),
			"the token must be valid, and its policy must have "+capabilities+" for that path")
	case e.StatusCode == http.StatusServiceUnavailable:
		return hint(fmt.Errorf("%s is sealed or not ready", s.config.Address), "unseal it: bao operator unseal")
	case e.StatusCode == http.StatusBadRequest && strings.Contains(said, "check-and-set parameter did not match"):
		return errCheckAndSet
	case e.StatusCode == http.StatusNotFound && verb == "write" && said != "":
		return s.missing(e.Errors)
	case e.StatusCode == http.StatusNotFound && verb == "write",
		slices.ContainsFunc(e.Errors, func(s string) bool {
			return strings.Contains(s, "unsupported path") || strings.Contains(s, "unsupported operation")
		}):
		return s.notVersioned()
	case said == "":
		return fmt.Errorf("%s answers with status %d", s.config.Address, e.StatusCode)
	}
	return fmt.Errorf("%s answers with status %d: %s", s.config.Address, e.StatusCode, said)
}
