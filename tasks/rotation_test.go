package tasks

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// rotationFleet is two clusters with one rotation.
func rotationFleet(t *testing.T, keys string) *inventory.Fleet {
	t.Helper()
	text := `[fleet]
name = "f"
[postgres]
version = 15
[hosts.pg01]
address = "10.0.0.1"
replication = "orders"
[hosts.pg02]
address = "10.0.0.2"
replication = "orders"
[hosts.pg03]
address = "10.0.0.3"
[[rotation]]
role = "app"
limit = "orders"
secret = "age:{{ .Host.Replication }}/app"
ca = "ca.pem"
` + keys
	return readFleet(t, text)
}

func readFleet(t *testing.T, text string) *inventory.Fleet {
	t.Helper()
	fleet, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(text)}}, Kinds: Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	return fleet
}

// certificates is a CA under every name.
func certificates(t *testing.T) Local {
	t.Helper()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "CA", Now: time.Now(), Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return func(string) ([]byte, error) { return ca.CertificatePEM(), nil }
}

func oneRotation(t *testing.T, keys string, asked Asked) *Rotation {
	t.Helper()
	fleet := rotationFleet(t, keys)
	bound, errs := NewRotations(fleet, fleet.Instances(), nil, asked, Options{Local: certificates(t)})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(bound["pg01"]) != 1 || len(bound["pg02"]) != 1 || len(bound["pg03"]) != 0 {
		t.Fatalf("bound %v", bound)
	}
	return bound["pg01"][0].Task.(*Rotation)
}

func verifierOf(t *testing.T, password string) secrets.Secret {
	t.Helper()
	v, err := postgres.SCRAMVerifier(password, []byte("0123456789abcdef"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	return secrets.NewString(v)
}

// stateWith is a primary on which roles have passwords: "app_a=one app_b". A role in
// brackets has sessions. Owed is what is noted on the host: "tell retire".
func stateWith(t *testing.T, r *Rotation, roles, owed string) *State {
	t.Helper()
	w := newWorld()
	c := &catalog.Cluster{Version: 150018, Roles: map[string]*catalog.Role{"app": {Name: "app"}}, Databases: map[string]*catalog.Database{}}
	var sessions []facts.Session
	for _, word := range strings.Fields(roles) {
		if inner, ok := strings.CutPrefix(word, "["); ok {
			word = strings.TrimSuffix(inner, "]")
			name, _, _ := strings.Cut(word, "=")
			sessions = append(sessions, facts.Session{User: name, Database: "shop", Count: 2})
		}
		name, password, _ := strings.Cut(word, "=")
		role := &catalog.Role{Name: name, Login: true}
		if password != "" {
			role.HasPassword, role.Password = true, verifierOf(t, password)
		}
		c.Roles[name] = role
		if name != "app" {
			c.Members = append(c.Members, catalog.Membership{Role: "app", Member: name})
		}
	}
	w.server(func(s *facts.Server) { s.Sessions = sessions })
	w[clusterRead(r.on)] = facts.Answer{Value: facts.ClusterInfo{Cluster: c}}
	for _, path := range []string{r.owedFile(), r.retireFile()} {
		exists := strings.Contains(owed, strings.Split(path, ".")[1])
		w[facts.File{Path: path}] = facts.Answer{Value: facts.FileInfo{Path: path, Exists: exists}}
	}
	return NewState(r.on, w, nil)
}

// heldWith is a store that has versions: "current:app_a=one pending:app_b=two".
func heldWith(versions string) Held {
	var h Held
	for i, word := range strings.Fields(versions) {
		stage, rest, _ := strings.Cut(word, ":")
		user, password, _ := strings.Cut(rest, "=")
		e := &secrets.Entry{Version: secrets.Version{ID: fmt.Sprint(i + 1), Stage: secrets.Stage(stage)}, Keys: map[string]secrets.Secret{"password": secrets.NewString(password)}}
		if user != "" {
			e.Keys["username"] = secrets.NewString(user)
		}
		switch e.Stage {
		case secrets.Current:
			h.Current = e
		case secrets.Pending:
			h.Pending = e
		case secrets.Previous:
			h.Previous = e
		}
	}
	return h
}

// stepsOf is what a plan does, in short words.
func stepsOf(out Outcome) string {
	var words []string
	for _, c := range out.Changes {
		switch a := c.Action.(type) {
		case PutPassword:
			words = append(words, "put("+a.User+")")
		case SetVerifier:
			words = append(words, "set("+a.Role+"@"+a.Password.Version+")")
		case ProvePassword:
			words = append(words, "prove("+a.Role+")")
		case Promote:
			words = append(words, "promote("+a.Secret.Version+")")
		case Retire:
			words = append(words, "retire("+a.Role+")")
		case RunCommand, TellUnit, TellUserlist, TellPassfile:
			words = append(words, "tell")
		case Told:
			words = append(words, "told")
		default:
			words = append(words, fmt.Sprintf("%T", a))
		}
	}
	return strings.Join(words, " ")
}

func TestRotationGoesOnFromWhatItFinds(t *testing.T) {
	const told = "tell = [{ command = \"true\" }]\n"
	tests := map[string]struct {
		keys   string
		held   string
		roles  string
		owed   string
		asked  Asked
		wanted string
		stage  Stage
		error  string
	}{
		"first": {
			roles: "app_a app_b", stage: Unset,
			wanted: "put(app_a) set(app_a@pending) prove(app_a) promote(pending)",
		},
		"settled": {
			held: "current:app_a=one", roles: "app_a=one app_b", stage: Settled,
			wanted: "put(app_b) set(app_b@pending) prove(app_b) promote(pending) retire(app_a)",
		},
		"the other way round": {
			held: "previous:app_a=one current:app_b=two", roles: "app_a app_b=two", stage: Settled,
			wanted: "put(app_a) set(app_a@pending) prove(app_a) promote(pending) retire(app_b)",
		},
		"written": {
			held: "current:app_a=one pending:app_b=two", roles: "app_a=one app_b", stage: Written,
			wanted: "set(app_b@2) prove(app_b) promote(2) retire(app_a)",
		},
		"stored": {
			held: "current:app_a=one pending:app_b=two", roles: "app_a=one app_b=two", stage: Stored,
			wanted: "prove(app_b) promote(2) retire(app_a)",
		},
		"published, and not told": {
			keys: told, held: "previous:app_a=one current:app_b=two", roles: "app_a=one app_b=two", owed: "tell retire", stage: Published,
			wanted: "tell told retire(app_a)",
		},
		"told, and not retired": {
			keys: told, held: "previous:app_a=one current:app_b=two", roles: "app_a=one app_b=two", owed: "retire", stage: Published,
			wanted: "retire(app_a)",
		},
		"retired, and not noted": {
			held: "previous:app_a=one current:app_b=two", roles: "app_a app_b=two", owed: "retire", stage: Settled,
			wanted: "put(app_a) set(app_a@pending) prove(app_a) promote(pending) retire(app_b)",
		},
		"sessions are to be ended": {
			held: "previous:app_a=one current:app_b=two", roles: "[app_a=one] app_b=two", asked: Asked{EndSessions: true}, stage: Settled,
			wanted: "retire(app_a)",
		},
		"left with its password": {
			held: "previous:app_a=one current:app_b=two", roles: "app_a=one app_b=two", stage: Settled,
			wanted: "put(app_a) set(app_a@pending) prove(app_a) promote(pending) retire(app_b)",
		},
		"the next one is used": {
			held: "previous:app_a=one current:app_b=two", roles: "[app_a=one] app_b=two", stage: Settled,
			error: "app_a, which is next, has 2 sessions, though age:orders/app says that app_b is in use",
		},
		"drifted": {
			held: "current:app_a=one", roles: "app_a=other app_b", stage: Drifted,
			error: "the password of app_a is not what age:orders/app#password has: somebody changed it by hand",
		},
		"drifted to the previous one": {
			held: "previous:app_a=zero current:app_a=one", roles: "app_a=zero app_b", stage: Drifted,
			error: "as current, but as previous",
		},
		"drifted, by force": {
			held: "current:app_a=one", roles: "app_a=other app_b", asked: Asked{Force: true}, stage: Drifted,
			wanted: "put(app_b) set(app_b@pending) prove(app_b) promote(pending) retire(app_a)",
		},
		"somebody else's pending version": {
			held: "current:app_a=one pending:app_a=two", roles: "app_a=one app_b",
			error: "no rotation wrote it; --force",
		},
		"somebody else's pending version, by force": {
			held: "current:app_a=one pending:app_a=two", roles: "app_a=one app_b", asked: Asked{Force: true}, stage: Settled,
			wanted: "put(app_b) set(app_b@pending) prove(app_b) promote(pending) retire(app_a)",
		},
		"a role that did not take turns before": {
			held: "current:app=one", roles: "app=one app_a app_b", stage: Settled,
			wanted: "put(app_a) set(app_a@pending) prove(app_a) promote(pending)",
		},
		"no username": {
			held: "current:=one", roles: "app_a app_b",
			error: "it has no key username",
		},
		"no role": {
			held: "current:app_a=one", roles: "app_a=one",
			error: `there is no role "app_b": a task of kind "role" with role = "app_b" and login = true, member_of = ["app"], settings = { role = "app" } makes it`,
		},
		"back": {
			held: "previous:app_a=one current:app_b=two", roles: "app_a app_b=two", asked: Asked{Back: true}, stage: Settled,
			wanted: "set(app_a@1) prove(app_a) promote(1) retire(app_b)",
		},
		"back before it was retired": {
			held: "previous:app_a=one current:app_b=two", roles: "app_a=one app_b=two", asked: Asked{Back: true}, stage: Settled,
			wanted: "prove(app_a) promote(1) retire(app_b)",
		},
		"nothing to go back to": {
			held: "current:app_b=two", roles: "app_a app_b=two", asked: Asked{Back: true}, stage: Settled,
			error: "has no previous version",
		},
		"nothing published to go back from": {
			held: "current:app_a=one pending:app_b=two", roles: "app_a=one app_b=two", asked: Asked{Back: true}, stage: Stored,
			error: "nothing of it published",
		},
		"cut off while going back": {
			keys: "strategy = \"in-place\"\n", held: "previous:=one current:=two", roles: "app=one", asked: Asked{Back: true}, stage: Drifted,
			wanted: "prove(app) promote(1)",
		},
		"going back was cut off, and is not gone on with": {
			keys: "strategy = \"in-place\"\n", held: "previous:=one current:=two", roles: "app=one", stage: Drifted,
			error: "a rollback was cut off (pgfleet rotate app --rollback goes on with it)",
		},
		"a password that nobody knows, for the first": {
			roles: "app_a=old app_b", stage: Drifted,
			error: "app_a, which is next, has a password that age:orders/app#password never held",
		},
		"a password by hand, of the role that is not in use": {
			held: "previous:app_b=one current:app_a=two", roles: "app_a=two app_b=hand", stage: Drifted,
			error: "app_b, which is next, has a password that age:orders/app#password never held",
		},
		"notes of a secret that is gone": {
			roles: "app_a app_b", owed: "tell retire", stage: Unset,
			wanted: "put(app_a) set(app_a@pending) prove(app_a) promote(pending) told",
		},
		"nobody to be told any more": {
			held: "previous:app_a=one current:app_b=two", roles: "app_a=one app_b=two", owed: "tell retire", stage: Published,
			wanted: "told retire(app_a)",
		},
		"PgBouncer is told before": {
			keys: "tell = [{ userlist = \"/u\" }, { service = \"pgbouncer\" }, { command = \"true\" }]\n",
			held: "current:app_a=one", roles: "app_a=one app_b", stage: Settled,
			wanted: "put(app_b) set(app_b@pending) prove(app_b) tell tell promote(pending) tell told retire(app_a)",
		},
		"not due": {
			keys: "max_age = \"1d\"\n", held: "current:app_a=one", roles: "app_a=one app_b", asked: Asked{DueAt: time.Now()}, stage: Settled,
		},
		"begun, and not due": {
			keys: "max_age = \"1d\"\n", held: "current:app_a=one pending:app_b=two", roles: "app_a=one app_b", asked: Asked{DueAt: time.Now()}, stage: Written,
			wanted: "set(app_b@2) prove(app_b) promote(2) retire(app_a)",
		},
		"in place, first": {
			keys: "strategy = \"in-place\"\n", roles: "app", stage: Unset,
			wanted: "put() set(app@pending) prove(app) promote(pending)",
		},
		"in place, of an unknown password": {
			keys: "strategy = \"in-place\"\n", roles: "app=old", stage: Drifted,
			error: "app has a password, and age:orders/app#password does not exist",
		},
		"in place": {
			keys: "strategy = \"in-place\"\n", held: "current:=one", roles: "app=one", stage: Settled,
			wanted: "put() set(app@pending) prove(app) promote(pending)",
		},
		"in place, stored": {
			keys: "strategy = \"in-place\"\n", held: "current:=one pending:=two", roles: "app=two", stage: Stored,
			wanted: "prove(app) promote(2)",
		},
		"in place, drifted while pending": {
			keys: "strategy = \"in-place\"\n", held: "current:=one pending:=two", roles: "app=three", stage: Drifted,
			error: "somebody changed it by hand",
		},
		"in place, back": {
			keys: "strategy = \"in-place\"\n", held: "previous:=one current:=two", roles: "app=two", asked: Asked{Back: true}, stage: Settled,
			wanted: "set(app@1) prove(app) promote(1)",
		},
		"in place, back in the middle": {
			keys: "strategy = \"in-place\"\n", held: "current:=one pending:=two", roles: "app=two", asked: Asked{Back: true}, stage: Stored,
			wanted: "set(app@1) prove(app)",
		},
		"no login": {
			keys: "strategy = \"in-place\"\nverify_from = \"none\"\n", held: "current:=one", roles: "app=one", stage: Settled,
			wanted: "put() set(app@pending) promote(pending)",
		},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			r := oneRotation(t, c.keys, c.asked)
			r.Hold(heldWith(c.held))
			s := stateWith(t, r, c.roles, c.owed)
			st, findErr := r.Find(s)
			out, err := r.Plan(r.on, s)
			switch {
			case c.error == "" && err != nil:
				t.Fatal(err)
			case c.error != "" && (err == nil || !strings.Contains(err.Error(), c.error)):
				t.Fatalf("error %v, want %q", err, c.error)
			}
			if findErr == nil && st.Stage != c.stage {
				t.Errorf("stage %q, want %q", st.Stage, c.stage)
			}
			if got := stepsOf(out); got != c.wanted {
				t.Errorf("steps\n %s\nwanted\n %s", got, c.wanted)
			}
		})
	}
}

func TestSessionsOnStandbysCount(t *testing.T) {
	r := oneRotation(t, "", Asked{})
	r.Hold(heldWith("previous:app_a=one current:app_b=two"))
	s := stateWith(t, r, "app_a=one app_b=two", "")
	r.See([]*State{stateWith(t, r, "[app_a=one] app_b=two", "")}, nil)
	if _, err := r.Plan(r.on, s); err == nil || !strings.Contains(err.Error(), "app_a, which is next, has 2 sessions") {
		t.Errorf("%v", err)
	}
	r.See(nil, []inventory.InstanceID{"pg02"})
	out, err := r.Plan(r.on, s)
	if err != nil || strings.Contains(stepsOf(out), "retire") || !strings.Contains(strings.Join(out.Warnings, "; "), "pg02 cannot be asked") {
		t.Errorf("%s, %v, %v", stepsOf(out), out.Warnings, err)
	}
}

func TestRotationHoldsWhatItWasPlannedWith(t *testing.T) {
	r := oneRotation(t, "", Asked{})
	r.Hold(heldWith("previous:app_a=one current:app_b=two"))
	for held, want := range map[string]bool{
		"previous:app_a=one current:app_b=two":                    true,
		"previous:app_a=one current:app_b=two pending:app_a=new":  false,
		"current:app_b=two":                                       false,
		"previous:app_a=one previous:app_b=two current:app_a=new": false,
		"": false,
	} {
		if got := r.Holds(heldWith(held)); got != want {
			t.Errorf("%q: %v, want %v", held, got, want)
		}
	}
}

func TestMistakesInRotations(t *testing.T) {
	tests := map[string]struct{ keys, error string }{
		"reference":      {"secret = \"nonsense\"\n", "no store is named before a colon"},
		"version":        {"secret = \"age:x@3\"\n", "secret: a rotation makes versions"},
		"key":            {"secret = \"age:x#username\"\n", "the key username is where the role's name is kept"},
		"shared":         {"limit = \"orders,pg03\"\nsecret = \"age:x\"\n", "would be the secret of orders and of pg03"},
		"in-place roles": {"strategy = \"in-place\"\nroles = [\"a\", \"b\"]\n", "has only the role itself"},
		"one role":       {"roles = [\"a\"]\n", "want two, which take turns"},
		"the group":      {"roles = [\"app\", \"b\"]\n", "want two others than \"app\""},
		"host":           {"verify_from = \"pg1\"\n", "verify_from: no host \"pg1\""},
		"short":          {"length = 8\n", "8 characters of 64 have 48 bits; want at least 128"},
		"alphabet":       {"alphabet = \"abca\"\n", "each once"},
		"tell":           {"tell = [{ command = \"x\", service = \"y\" }]\n", "want one of command, service, userlist and passfile"},
		"tell host":      {"tell = [{ service = \"x\", hosts = [\"nobody\"] }]\n", "no host \"nobody\""},
		"path":           {"tell = [{ userlist = \"x\" }]\n", "want a path that begins with /"},
		"part":           {"limit = \"pg01\"\n", "limit: it means pg01 and not pg02 of the same cluster; let it name the cluster: limit = \"orders\""},
		"one address":    {"address = \"db\"\n", "address: it is db for pg01 and for pg02"},
		"two roles":      {"secret = \"age:{{ .Cluster }}/app\"\nlimit = \"orders\"\n[[rotation]]\nrole = \"b\"\nlimit = \"orders\"\nca = \"ca.pem\"\nsecret = \"age:{{ .Cluster }}/app#other\"\n", "age:orders/app is that of the role \"app\" too"},
		"age":            {"max_age = \"ninety\"\n", "want a length of time such as \"90d\""},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			base := "[fleet]\nname = \"f\"\n[postgres]\nversion = 15\n[hosts.pg01]\nreplication = \"orders\"\n[hosts.pg02]\nreplication = \"orders\"\n[hosts.pg03]\n[[rotation]]\nrole = \"app\"\nca = \"ca.pem\"\n"
			for _, line := range []string{"secret = \"age:{{ .Host.Replication }}/app\"\n", "limit = \"orders\"\n"} {
				if word, _, _ := strings.Cut(line, " "); !strings.HasPrefix(c.keys, word) && !strings.Contains(c.keys, "\n"+word+" ") {
					base += line
				}
			}
			fleet := readFleet(t, base+c.keys)
			_, errs := NewRotations(fleet, fleet.Instances(), nil, Asked{}, Options{Local: certificates(t)})
			if !slices.ContainsFunc(errs, func(e inventory.Error) bool { return strings.Contains(e.Msg, c.error) && e.Pos.Line > 0 }) {
				t.Errorf("mistakes %v, want %q", errs, c.error)
			}
		})
	}
}
