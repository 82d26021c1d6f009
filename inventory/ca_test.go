package inventory

import (
	"strings"
	"testing"
	"time"
)

func TestCA(t *testing.T) {
	ca := mustLoad(t, twoHosts+"[ca]\ncertificate = \"ca.pem\"\nkey = \"age:ca#key\"\n").CA
	if ca.Certificate.Value != "ca.pem" || ca.Key.Value != "age:ca#key" || ca.Lifetime.Value != DefaultLifetime || ca.CRLLifetime.Value != DefaultCRLLifetime ||
		ca.Overlap.Value != DefaultOverlap || ca.Records != "certs" || ca.Timeout != 30*time.Second || ca.Sign.Value != nil {
		t.Errorf("defaults: %+v", ca)
	}
	ca = mustLoad(t, twoHosts+`
[ca]
certificate = "ca.pem"
sign = ["./vault-sign", "role"]
timeout = "10s"
lifetime = "2m"
crl_lifetime = "36h"
overlap = "0s"
records = "pki"
`).CA
	if len(ca.Sign.Value) != 2 || ca.Timeout != 10*time.Second || ca.Lifetime.Value != Age(2*time.Minute) || ca.CRLLifetime.Value.String() != "36h0m0s" || ca.Overlap.Value != 0 || ca.Records != "pki" {
		t.Errorf("%+v", ca)
	}
	if f := mustLoad(t, twoHosts); f.CA != nil {
		t.Errorf("without a table: %+v", f.CA)
	}
}

func TestCAMistakes(t *testing.T) {
	const good = "certificate = \"ca.pem\"\nkey = \"age:ca#key\"\n"
	for text, want := range map[string]string{
		`key = "age:ca#key"`:                    `7:2: ca: missing key "certificate"`,
		`certificate = "ca.pem"`:                `7:2: ca: missing key "key"`,
		good + `sign = ["./sign"]`:              "10:8: sign: there is a key already, at fleet.toml:9:7",
		"certificate = \"ca.pem\"\nsign = []":   "9:8: sign: want a program and its arguments",
		"certificate = \"ca.pem\"\nsign = \"\"": "9:8: sign: want a program and its arguments",
		"certificate = \"ca.pem\"\nsign = 1":    "9:8: sign: want a string or a list of strings",
		good + `intermediate = ""`:              "10:16: intermediate: it is empty",
		good + `timeout = "3s"`:                 "ca: timeout is that of the program of sign",
		good + `lifetime = "90 days"`:           `10:12: lifetime: want a length of time such as "90d" or "36h", found a string`,
		good + `lifetime = "3s"`:                "10:12: lifetime: 3s is too short; the least is 1m0s",
		good + `lifetime = "900d"`:              "10:12: lifetime: 900d is too long; the most is 825d",
		good + `crl_lifetime = "0s"`:            "10:16: crl_lifetime: 0s is too short",
		good + `life = "90d"`:                   `10:1: unknown key "life"`,
		"certificate = \"ca.pem\"\nsign = \"./s\"\nintermediate = \"i.pem\"": "10:16: intermediate: the program of sign returns",
	} {
		_, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": twoHosts + "[ca]\n" + text + "\n"})})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	_, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": twoHosts + "include = [\"a.toml\"]\n", "a.toml": "[ca]\n" + good})})
	if err == nil {
		t.Error("an included file has a [ca]")
	}
}
