package inventory

import (
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Secrets is the table [secrets]: the stores that need to be told something.
type Secrets struct {
	Age    *AgeStore     // [secrets.age]
	Stores []SecretStore // all others, in the order of the file
}

// A SecretStore is one table [secrets.NAME]. One of its pointers is set.
type SecretStore struct {
	Name  string
	Pos   Position // of the name
	Age   *AgeStore
	Vault *VaultStore
	AWS   *AWSStore
	Exec  *ExecStore
}

// AgeStore is a store of kind age.
type AgeStore struct {
	Dir        string  `toml:"dir" doc:"The folder of the encrypted files, beside fleet.toml."`
	Identities Strings `toml:"identities" doc:"Files with the age or SSH identities that decrypt."`
	Recipients Strings `toml:"recipients" doc:"Whom new secrets are encrypted to: age or SSH public keys, or files that list them."`
}

// VaultStore is a store of kind vault: OpenBao or HashiCorp Vault.
type VaultStore struct {
	Address   Positioned[string] `toml:"address" required:"true" doc:"The server's URL, such as https://vault.example.org:8200."`
	Namespace string             `toml:"namespace" doc:"The namespace; the root one by default."`
	Mount     string             `toml:"mount" doc:"Where the KV engine, version 2, is mounted; secret by default."`
	Versions  string             `toml:"versions" doc:"The folder in that mount where pgfleet keeps pending and former versions; pgfleet-versions by default."`
	CAFile    string             `toml:"ca_file" doc:"The certificates of the server's CA in PEM, in a file beside this one; the system's by default."`
	Token     Positioned[string] `toml:"token" doc:"Where the token is: env:NAME or file:PATH; BAO_TOKEN, VAULT_TOKEN or ~/.vault-token by default."`
	RoleID    Positioned[string] `toml:"role_id" doc:"To log in by AppRole, where the role_id is: env:NAME or file:PATH."`
	SecretID  Positioned[string] `toml:"secret_id" doc:"Where the secret_id is: env:NAME or file:PATH."`
	Auth      string             `toml:"auth" doc:"Where AppRole is mounted; approle by default."`
	Timeout   time.Duration      `toml:"timeout" doc:"How long reading or writing a secret may take; 15s by default."`
}

// AWSStore is a store of kind aws: AWS Secrets Manager.
type AWSStore struct {
	Region   string             `toml:"region" doc:"The region; else AWS_REGION or ~/.aws/config decides."`
	Profile  string             `toml:"profile" doc:"The profile of ~/.aws/config; else AWS_PROFILE decides."`
	Endpoint Positioned[string] `toml:"endpoint" doc:"Another URL of the service than the region's, such as that of a VPC endpoint."`
	Timeout  time.Duration      `toml:"timeout" doc:"How long reading or writing a secret may take; 15s by default."`
}

// ExecStore is a store of kind exec: a program.
type ExecStore struct {
	Command Positioned[Strings] `toml:"command" required:"true" doc:"The program and its arguments, as a list; with a slash it is a path, seen from this file's folder."`
	Timeout time.Duration       `toml:"timeout" doc:"How long the program may take; 30s by default."`
}

// storeKinds are the kinds of stores, and what their keys are decoded into.
var storeKinds = map[string]reflect.Type{
	"age":     reflect.TypeFor[AgeStore](),
	"vault":   reflect.TypeFor[VaultStore](),
	"openbao": reflect.TypeFor[VaultStore](),
	"aws":     reflect.TypeFor[AWSStore](),
	"exec":    reflect.TypeFor[ExecStore](),
}

// UnmarshalNode takes a table of tables.
func (s *Secrets) UnmarshalNode(n *Node) Errors {
	var errs Errors
	if n.Kind != KindTable {
		errs.Add(n.Pos, "want a table, found %s", n.describe())
		return errs
	}
	for _, k := range n.Keys {
		kind, ok := storeKind(k, &errs)
		if !ok {
			continue
		}
		store := SecretStore{Name: k.Name, Pos: k.Pos}
		body := k.Value.Without("kind")
		switch storeKinds[kind] {
		case storeKinds["age"]:
			store.Age = &AgeStore{}
			errs = append(errs, Decode(body, store.Age)...)
		case storeKinds["vault"]:
			store.Vault = &VaultStore{}
			errs = append(errs, Decode(body, store.Vault)...)
			errs = append(errs, store.Vault.check()...)
		case storeKinds["aws"]:
			store.AWS = &AWSStore{}
			errs = append(errs, Decode(body, store.AWS)...)
			checkURL(store.AWS.Endpoint, "endpoint", &errs)
		case storeKinds["exec"]:
			store.Exec = &ExecStore{}
			errs = append(errs, Decode(body, store.Exec)...)
			if c := store.Exec.Command; c.Node != nil && (len(c.Value) == 0 || c.Value[0] == "") && len(errs) == 0 {
				errs.Add(c.Pos(), "command: want a program and its arguments, such as [\"./stores/pass\"]")
			}
		}
		if k.Name == "age" {
			s.Age = store.Age
		} else {
			s.Stores = append(s.Stores, store)
		}
	}
	return errs
}

// storeKind returns the kind of a store: what it says itself, or else its name.
func storeKind(k Key, errs *Errors) (kind string, ok bool) {
	kinds := slices.Sorted(maps.Keys(storeKinds))
	if k.Name == "env" || k.Name == "file" {
		errs.Add(k.Pos, "secrets: the store %s is there without being named, and has no settings; give this one another name", k.Name)
		return "", false
	}
	if !isStoreName(k.Name) {
		errs.Add(k.Pos, "secrets: %q cannot be a store's name: want lower-case letters, digits and dashes, a letter first", k.Name)
		return "", false
	}
	if k.Value.Kind != KindTable {
		errs.Add(k.Value.Pos, "%s: want a table, found %s", k.Name, k.Value.describe())
		return "", false
	}
	_, isKind := storeKinds[k.Name]
	said := k.Value.Get("kind")
	switch {
	case said == nil && isKind:
		return k.Name, true
	case said == nil:
		errs.Add(k.Pos, "secrets.%s: missing key \"kind\": one of %s%s", k.Name, strings.Join(kinds, ", "), DidYouMean(k.Name, kinds))
	case said.Kind != KindString:
		errs.Add(said.Pos, "kind: want a string, found %s", said.describe())
	case storeKinds[said.Str] == nil:
		errs.Add(said.Pos, "kind: %q is none of %s%s", said.Str, strings.Join(kinds, ", "), DidYouMean(said.Str, kinds))
	case isKind && storeKinds[said.Str] != storeKinds[k.Name]:
		errs.Add(said.Pos, "kind: the store called %s is of that kind; give one of kind %s another name", k.Name, said.Str)
	default:
		return said.Str, true
	}
	return "", false
}

func isStoreName(s string) bool {
	for i, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '-')) {
			return false
		}
	}
	return s != ""
}

func (v *VaultStore) check() Errors {
	var errs Errors
	checkURL(v.Address, "address", &errs)
	for _, ref := range []struct {
		name  string
		value Positioned[string]
	}{{"token", v.Token}, {"role_id", v.RoleID}, {"secret_id", v.SecretID}} {
		store, path, _ := strings.Cut(ref.value.Value, ":")
		if ref.value.Node != nil && ref.value.Node.Kind == KindString && (store != "env" && store != "file" || path == "") {
			// What stands there may be the secret itself.
			errs.Add(ref.value.Pos(), "%s: want where it is, env:NAME or file:PATH, not what it is", ref.name)
		}
	}
	switch {
	case v.Token.Node != nil && v.RoleID.Node != nil:
		errs.Add(v.RoleID.Pos(), "role_id: there is a token already; want one of them")
	case v.SecretID.Node != nil && v.RoleID.Node == nil:
		errs.Add(v.SecretID.Pos(), "secret_id: want role_id too")
	}
	return errs
}

func checkURL(v Positioned[string], name string, errs *Errors) {
	if v.Node == nil || v.Node.Kind != KindString {
		return
	}
	u, err := url.Parse(v.Value)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		errs.Add(v.Pos(), "%s: want a URL such as https://vault.example.org:8200", name)
	case u.User != nil:
		errs.Add(v.Pos(), "%s: want a URL without a user and a password", name)
	}
}

// JSONSchema describes the stores of each kind, by the names that are kinds and by
// others.
func (Secrets) JSONSchema() map[string]any {
	properties := map[string]any{}
	var others []any
	for _, kind := range slices.Sorted(maps.Keys(storeKinds)) {
		for _, named := range []bool{true, false} {
			s := schemer{}.of(storeKinds[kind], "")
			said := []string{kind}
			if named {
				said = slices.DeleteFunc(slices.Sorted(maps.Keys(storeKinds)), func(k string) bool { return storeKinds[k] != storeKinds[kind] })
			}
			s["properties"].(map[string]any)["kind"] = map[string]any{"type": "string", "enum": said, "description": "What kind of store it is; its name by default."}
			if named {
				properties[kind] = s
				continue
			}
			required, _ := s["required"].([]string)
			s["required"] = append([]string{"kind"}, required...)
			others = append(others, s)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": map[string]any{"oneOf": others}}
}
