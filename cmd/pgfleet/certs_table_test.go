package main

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/tasks"
)

func TestRenderCerts(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	of := func(began, left time.Duration) lifetime { return lifetime{now.Add(-began), now.Add(left)} }
	const day = 24 * time.Hour
	d := certsDocument{
		now: now,
		CAs: []listedCA{
			{Subject: "prod CA 2026", Signs: true, lifetime: of(200*day, 3450*day)},
			{Subject: "prod CA 2027", lifetime: of(day, 3649*day)},
		},
		Certificates: []listedCert{
			{Instance: "pg01", File: "/etc/s.pem", Usage: "server", Subject: "CN=pg01", Names: []string{"pg01", "10.0.0.1"}, Issuer: "prod CA 2026", lifetime: of(2*day, 88*day), Served: "yes"},
			{Instance: "pg02", File: "/etc/s.pem", Usage: "server", Subject: "CN=pg02", Names: []string{"pg02"}, Issuer: "prod CA 2026", lifetime: of(70*day, 20*day), Served: "no", Due: "it expires on some day; the server presents another one"},
			{Instance: "pg02", File: "/etc/c.pem", Usage: "client", Due: "there is none", missing: true},
			{File: "certs/app-1f.pem", Usage: "client", Subject: "CN=app\x1b[31m", Issuer: "prod CA 2026", lifetime: of(89*day, -day), Due: "the client certificate of app has expired"},
			{File: "certs/old-2.pem", Usage: "client", Subject: "CN=old", Issuer: "prod CA 2026", lifetime: of(89*day, day), Revoked: true},
		},
		CRLs:     []listedCRL{{Instance: "pg01", File: "/etc/root.crl", Issuer: "prod CA 2026", Revoked: 1, lifetime: of(time.Minute, time.Minute)}},
		Problems: []listProblem{{"pg03", "no route to host"}},
		Rotation: &caStatus{Stage: pki.Introduced, Old: "prod CA 2026", New: "prod CA 2027", Next: "phase 2", Awaits: []string{"clients have until tomorrow"}},
	}
	const want = `CA            USE      LEFT                     UNTIL
prod CA 2026  signs    3450 days  ████████████  2036-05-07 12:00
prod CA 2027  trusted  3649 days  ████████████  2036-11-22 12:00

WHERE             USAGE   SUBJECT         NAMES           ISSUER        LEFT                   SERVED
pg01              server  CN=pg01         pg01, 10.0.0.1  prod CA 2026  88 days  ████████████  yes
pg02              server  CN=pg02         pg02            prod CA 2026  20 days  ███░░░░░░░░░  no
pg02              client                                                none
certs/app-1f.pem  client  CN=app\x1b[31m                  prod CA 2026  expired  ░░░░░░░░░░░░
certs/old-2.pem   client  CN=old                          prod CA 2026  revoked  █░░░░░░░░░░░

WHERE  REVOCATION LIST OF  REVOKED  LEFT
pg01   prod CA 2026        1        1m0s  ██████░░░░░░

pg03: no route to host
due: pg02: /etc/s.pem: it expires on some day; the server presents another one
due: pg02: /etc/c.pem: there is none
due: the client certificate of app has expired
rotation of the CA: introduced, prod CA 2026 → prod CA 2027; next is phase 2: pgfleet certs rotate-ca
  waits: clients have until tomorrow
the certificate of CN=app\x1b[31m in certs/app-1f.pem ended first, on 2026-11-25 12:00
`
	if diff := cmp.Diff(want, renderCerts(d, newStyle(false))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	text, err := encode(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, has := range []string{`"not_after": "2036-05-07T12:00:00Z"`, `"signs": true`, `"served": "no"`, `"stage": "introduced"`} {
		if !bytes.Contains(text, []byte(has)) {
			t.Errorf("%s is not in\n%s", has, text)
		}
	}
	if strings.Contains(string(text), "\x1b") {
		t.Error("JSON holds what a terminal would obey")
	}
}

func TestBar(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		began, left time.Duration
		blocks      int
	}{{0, time.Hour, 12}, {time.Hour, time.Hour, 6}, {time.Hour, time.Second, 1}, {time.Hour, 0, 0}, {time.Hour, -time.Hour, 0}, {-time.Hour, 2 * time.Hour, 12}} {
		bar := lifetime{now.Add(-test.began), now.Add(test.left)}.bar(now)
		if n := strings.Count(bar, "█"); n != test.blocks || len([]rune(bar)) != barWidth {
			t.Errorf("%v ago, %v left: %s", test.began, test.left, bar)
		}
	}
}

// Intermediates are listed too, and the one that signs is marked.
func TestListCAs(t *testing.T) {
	now := time.Now()
	var all []*x509.Certificate
	for i, name := range []string{"root", "issuing", "older"} {
		ca, err := pki.NewCA(pki.CAOptions{CommonName: name, Now: now.Add(-time.Hour), Validity: time.Duration(i+1) * 65 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ca.Certificate())
	}
	a := &tasks.Authority{Bundle: all[:1], Chain: all[1:], Signing: all[1]}
	list := listCAs(a, now.Add(time.Hour))
	if len(list) != 3 || list[0].Signs || !list[1].Signs || list[2].Signs {
		t.Fatalf("%+v", list)
	}
	if !strings.Contains(list[0].Due, "the CA root has expired; what it signed ends with it") || !strings.Contains(list[1].Due, "get its successor from whoever has the root's key") || list[2].Due != "" {
		t.Errorf("%+v", list)
	}
}

// What only a host's list knows can be written down.
func TestRevokableFromLists(t *testing.T) {
	now := time.Now()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "CA", Now: now.Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.RevocationList([]pki.Revocation{{Serial: big.NewInt(0xbad), At: now.Add(-time.Minute), Reason: 1}}, now, 0)
	if err != nil {
		t.Fatal(err)
	}
	lists, err := pki.InspectCRL(text)
	if err != nil {
		t.Fatal(err)
	}
	places := []pki.RotationPlace{{Name: "pg01", Lists: []pki.ListFile{{Path: "/root.crl", Lists: lists}}}, {Name: "pg02", Lists: []pki.ListFile{{Path: "/root.crl", Lists: lists}}}}
	signers := []*x509.Certificate{ca.Certificate()}
	found := listedAs("bad", places, signers)
	if len(found) != 1 || found[0].String() != "pg01: /root.crl: serial bad, of CA, is in the revocation list there" || found[0].listed.Reason != 1 {
		t.Errorf("%+v", found)
	}
	if found := listedAs("bae", places, signers); len(found) != 0 {
		t.Errorf("another serial: %+v", found)
	}
}
