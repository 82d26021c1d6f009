package inventory

import "time"

// CA is the table [ca]: who signs the fleet's certificates.
type CA struct {
	Certificate  Positioned[string]  `toml:"certificate" required:"true" doc:"What is trusted, a PEM file beside this one. The first certificate in it signs; further ones are only trusted, while the CA changes."`
	Key          Positioned[string]  `toml:"key" doc:"Where the signing key is: a secret such as \"age:ca#key\"."`
	Intermediate Positioned[string]  `toml:"intermediate" doc:"The certificate that signs, where that is not the root in certificate, and after it those between the two, and earlier ones whose certificates are in use still: a PEM file beside this one. key is the key of its first certificate."`
	Sign         Positioned[Strings] `toml:"sign" doc:"Instead of key, a program that signs requests, and its arguments, as a list; with a slash it is a path, seen from this file's folder."`
	Timeout      time.Duration       `toml:"timeout" doc:"How long that program may take; 30s by default."`
	Lifetime     Positioned[Age]     `toml:"lifetime" doc:"How long certificates are valid, such as \"90d\", the default. They are renewed when a third of it is left."`
	CRLLifetime  Positioned[Age]     `toml:"crl_lifetime" doc:"How long revocation lists are valid; \"30d\" by default. They are made anew when half of it is left."`
	Overlap      Positioned[Age]     `toml:"overlap" doc:"While the CA changes, how long clients have to be given the new certificate before anything is signed with it; \"7d\" by default."`
	Records      string              `toml:"records" doc:"The folder beside this file that holds the certificates of clients that were exported, and revoked.toml; certs by default."`
}

// The defaults of [CA].
const (
	DefaultSignTimeout = 30 * time.Second
	DefaultLifetime    = Age(90 * 24 * time.Hour)
	DefaultCRLLifetime = Age(30 * 24 * time.Hour)
	DefaultOverlap     = Age(7 * 24 * time.Hour)
	DefaultRecords     = "certs"
)

// Certificates are valid for at least MinLifetime, and at most MaxLifetime: 825 days, which clients on macOS accept.
const (
	MinLifetime = Age(time.Minute)
	MaxLifetime = Age(825 * 24 * time.Hour)
)

// checkCA takes [ca] over, with its defaults.
func (l *loader) checkCA() {
	ca := l.file.CA
	if ca == nil {
		return
	}
	l.fleet.CA = ca
	for _, path := range []struct {
		name  string
		value Positioned[string]
	}{{"certificate", ca.Certificate}, {"key", ca.Key}, {"intermediate", ca.Intermediate}} {
		if n := path.value.Node; n != nil && n.Kind == KindString && path.value.Value == "" {
			l.errs.Add(n.Pos, "%s: it is empty", path.name)
		}
	}
	program := ca.Sign.Node != nil
	switch {
	case program && ca.Key.Node != nil:
		l.errs.Add(ca.Sign.Pos(), "sign: there is a key already, at %s; want one of them", ca.Key.Pos())
	case program && ca.Intermediate.Node != nil:
		l.errs.Add(ca.Intermediate.Pos(), "intermediate: the program of sign returns the intermediate certificates itself; leave it out")
	case program && ca.Sign.Node.Kind == KindList && (len(ca.Sign.Value) == 0 || ca.Sign.Value[0] == ""),
		program && ca.Sign.Node.Kind == KindString && ca.Sign.Value[0] == "":
		l.errs.Add(ca.Sign.Pos(), `sign: want a program and its arguments, such as ["./sign"]`)
	case !program && ca.Key.Node == nil:
		l.errs.Add(l.caPos, `ca: missing key "key" (where the signing key is, such as "age:ca#key"), or "sign" (a program that signs)`)
	}
	if !program && ca.Timeout != 0 {
		l.errs.Add(l.caPos, "ca: timeout is that of the program of sign, and there is none")
	}
	if ca.Timeout == 0 {
		ca.Timeout = DefaultSignTimeout
	}
	for _, age := range []struct {
		name      string
		value     *Positioned[Age]
		otherwise Age
		least     Age
	}{
		{"lifetime", &ca.Lifetime, DefaultLifetime, MinLifetime},
		{"crl_lifetime", &ca.CRLLifetime, DefaultCRLLifetime, MinLifetime},
		{"overlap", &ca.Overlap, DefaultOverlap, 0},
	} {
		if age.value.Node == nil {
			age.value.Value = age.otherwise
		} else if age.value.Value < age.least && len(new(Age).UnmarshalNode(age.value.Node)) == 0 {
			l.errs.Add(age.value.Pos(), "%s: %v is too short; the least is %v", age.name, age.value.Value, age.least)
		}
	}
	if ca.Lifetime.Value > MaxLifetime {
		l.errs.Add(ca.Lifetime.Pos(), "lifetime: %v is too long; the most is %v", ca.Lifetime.Value, MaxLifetime)
	}
	if ca.Records == "" {
		ca.Records = DefaultRecords
	}
}
