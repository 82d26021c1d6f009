package secrets

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
)

func TestRedactorKnownValues(t *testing.T) {
	const value = "s3cr/t+v&lue<1>'\"\\"
	const verifier = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$U3RvcmVkS2V5U3RvcmVkS2V5:U2VydmVyS2V5U2VydmVyS2V5"
	const key = "-----BEGIN X-----\nMHcCAQEEIGFiY2RlZmdoaWpr\nbG1ub3BxcnN0dXZ3eHl6\n-----END X-----\n"
	r := NewRedactor()
	r.Add(NewString(value), NewString(verifier), NewString(key), NewString("ab"), Secret{})
	asJSON, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"plain":              value,
		"base64":             base64.StdEncoding.EncodeToString([]byte(value)),
		"base64url":          base64.URLEncoding.EncodeToString([]byte(value)),
		"unpadded":           base64.RawStdEncoding.EncodeToString([]byte(value)),
		"in base64":          base64.StdEncoding.EncodeToString([]byte("u:" + value)),
		"in longer base64":   base64.RawURLEncoding.EncodeToString([]byte("user" + value + "after")),
		"hex":                hex.EncodeToString([]byte(value)),
		"HEX":                strings.ToUpper(hex.EncodeToString([]byte(value))),
		"query":              url.QueryEscape(value),
		"path":               url.PathEscape(value),
		"JSON":               string(asJSON),
		"Go":                 fmt.Sprintf("%q", value),
		"bytes":              fmt.Sprint([]byte(value)),
		"SQL":                "'" + strings.ReplaceAll(value, "'", "''") + "'",
		"verifier":           verifier,
		"verifier's part":    "StoredKey is U3RvcmVkS2V5U3RvcmVkS2V5",
		"one line of a key":  "line: bG1ub3BxcnN0dXZ3eHl6",
		"within other words": "x" + value + "x",
	}
	for name, text := range tests {
		got := r.String("before " + text + " after")
		if !strings.Contains(got, Mask) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %q gives %q", name, text, got)
		}
		for form := range r.known() {
			if strings.Contains(got, form) {
				t.Errorf("%s: %q still holds a form of a value", name, got)
			}
		}
		if again := r.String(got); again != got {
			t.Errorf("%s: masking twice gives %q, then %q", name, got, again)
		}
		// The control: without the value, it is not found.
		if name != "verifier" && NewRedactor().String(text) != text {
			t.Errorf("%s: masked without being known", name)
		}
	}
	if got := r.String("ab is too short to be a secret"); strings.Contains(got, Mask) {
		t.Errorf("a value of two letters is masked: %q", got)
	}
}

func TestRedactorOverlap(t *testing.T) {
	r := NewRedactor()
	r.Add(NewString("abcdef"), NewString("defghi"), NewString("ghijkl"))
	if got, want := r.String("-abcdefghijkl-"), "-"+Mask+"-"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := string(r.Bytes([]byte("-abcdef-"))); got != "-"+Mask+"-" {
		t.Errorf("Bytes: %q", got)
	}
}

func TestRedactorForms(t *testing.T) {
	masked := []struct{ text, want string }{
		{"host=h password=abc user=u", "host=h password=•••• user=u"},
		{"password = 'it''s' x", "password = •••• x"},
		{`password='a\'b' x`, "password=•••• x"},
		{"PGPASSWORD=abc psql", "PGPASSWORD=•••• psql"},
		{`ldapbindpasswd="a b"`, "ldapbindpasswd=••••"},
		{`{"password":"abc","user":"u"}`, `{"password":••••,"user":"u"}`},
		{`{"password": "a\"b"}`, `{"password": ••••}`},
		{"password: abc", "password: ••••"},
		{"ALTER ROLE a PASSWORD 'it''s';", "ALTER ROLE a PASSWORD ••••;"},
		{"alter role a encrypted password E'a\\'b' valid until 'x'", "alter role a encrypted password •••• valid until 'x'"},
		{"PASSWORD $$abc$$ LOGIN", "PASSWORD •••• LOGIN"},
		{"PASSWORD $x$abc$x$ LOGIN", "PASSWORD •••• LOGIN"},
		{"PASSWORD 'cut sho", "PASSWORD ••••"},
		{"x SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy y", "x SCRAM-SHA-256$•••• y"},
		{"x SCRAM-SHA-256$4096:c2Fs", "x SCRAM-SHA-256$••••"},
		{`"app" "md5` + strings.Repeat("0a", 16) + `"`, `"app" "md5••••"`},
		{"postgres://app:pw@h/db", "postgres://app:••••@h/db"},
		{"AGE-SECRET-KEY-1QQPZRY9X8", "AGE-SECRET-KEY-••••"},
		{"AGE-SECRET-KEY-PQ-1QQPZRY9X8", "AGE-SECRET-KEY-PQ-••••"},
		{"a\n-----BEGIN EC PRIVATE KEY-----\nMHc\nAbc\n-----END EC PRIVATE KEY-----\nb", "a\n-----BEGIN EC PRIVATE KEY-----••••-----END EC PRIVATE KEY-----\nb"},
		{"-----BEGIN PRIVATE KEY-----\nMHc\nAbc", "-----BEGIN PRIVATE KEY-----••••"},
	}
	r := NewRedactor()
	for _, test := range masked {
		if got := r.String(test.text); got != test.want {
			t.Errorf("%q\n got %q\nwant %q", test.text, got, test.want)
		}
		if got := r.String(test.want); got != test.want {
			t.Errorf("masked again, %q becomes %q", test.want, got)
		}
	}
	for _, plain := range []string{
		"password_encryption = 'scram-sha-256'",
		"host all all 10.0.0.0/8 password",
		`FATAL:  password authentication failed for user "app"`,
		"passfile=/root/.pgpass",
		"ALTER ROLE a PASSWORD NULL",
		"-----BEGIN CERTIFICATE-----\nabc",
		"method scram-sha-256, SCRAM-SHA-256-PLUS",
		"https://example.org:443/a@b",
		"md5sum of 0a0a",
	} {
		if got := r.String(plain); got != plain {
			t.Errorf("%q is masked: %q", plain, got)
		}
	}
}

func TestRedactorParallel(t *testing.T) {
	r := NewRedactor()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			v := fmt.Sprintf("value-%d", i)
			r.Add(NewString(v))
			if got := r.String(v); got != Mask {
				t.Errorf("got %q", got)
			}
		})
	}
	wg.Wait()
}

func FuzzRedactor(f *testing.F) {
	f.Add("secret-value", "before secret-value after")
	f.Add("abab", "ababab PASSWORD 'x")
	f.Add("••••", "password=••••")
	f.Fuzz(func(t *testing.T, value, text string) {
		r := NewRedactor()
		r.Add(NewString(value))
		got := r.String(text + value + text)
		if len(value) >= minRedact && !strings.Contains(Mask, value) && !strings.Contains(value, Mask) &&
			strings.Contains(strings.ReplaceAll(got, Mask, "\x00\x00\x00\x00"), value) && !strings.Contains(value, "\x00") {
			t.Fatalf("%q is still in %q", value, got)
		}
	})
}

func TestRedactLines(t *testing.T) {
	secret := Placeholder(appRef, Conf)
	raw := Placeholder(appRef, Raw)
	unknown := Placeholder(envRef, Raw)
	const pem = "-----BEGIN PRIVATE KEY-----\nAAAA\nBBBB\n-----END PRIVATE KEY-----\n"
	multi := "line one\nline two\n"
	tests := []struct {
		name, value      string
		old, new         string
		wantOld, wantNew string
	}{
		{"unchanged", "v-new", "a = 1\npw = 'v-new'\n", "a = 1\npw = " + secret + "\n", "a = 1\npw = '••••'\n", "a = 1\npw = '••••'\n"},
		{"changed", "v-new", "a = 1\npw = 'v-old'\n", "a = 1\npw = " + secret + "\n", "a = 1\npw = '••••'\n", "a = 1\npw = '•••• (changed)'\n"},
		{"moved", "v-new", "pw = 'v-new'\na = 1\n", "a = 1\npw = " + secret + "\n", "pw = '••••'\na = 1\n", "a = 1\npw = '••••'\n"},
		{"new file", "v-new", "", "pw = " + secret + "\n", "", "pw = '••••'\n"},
		{"other text", "v-new", "pw = 'v-old' # x\n", "pw = " + secret + "\n", "••••\n", "pw = '••••'\n"},
		{"not known", "", "pw = v-old\n", "pw = " + unknown + "\n", "pw = ••••\n", "pw = •••• (known after apply)\n"},
		{"removed beside", "v-new", "h:5432:*:a:v-new\nh:5432:*:b:v-old\n", "h:5432:*:a:" + raw + "\n", "h:5432:*:a:••••\n••••\n", "h:5432:*:a:••••\n"},
		{"setting beside", "v-new", "work_mem = 4MB\npw = 'v-new'\n", "work_mem = 8MB\npw = " + secret + "\n", "work_mem = 4MB\npw = '••••'\n", "work_mem = 8MB\npw = '••••'\n"},
		{"name of a secret", "v-new", "pw = 'v-old', x\n", "pw = " + secret + "\npw = y\n", "••••\n", "pw = '••••'\npw = y\n"},
		{"whole line", "v-new", "v-old\n", raw + "\n", "••••\n", "•••• (changed)\n"},
		{"several lines, unchanged", multi, "line one\nline two\n\nx\n", raw + "\nx\n", "••••\nx\n", "••••\nx\n"},
		{"several lines, changed", multi, "other\nlines\nhere\nx\n", raw + "\nx\n", "••••\nx\n", "•••• (changed)\nx\n"},
		{"key, unchanged", pem, pem + "\n", raw + "\n", "••••\n", "••••\n"},
		{"key in the template", "v-new", "a\n" + strings.ReplaceAll(pem, "AAAA", "CCCC"), "a\n" + pem, "a\n-----BEGIN PRIVATE KEY-----••••-----END PRIVATE KEY-----\n", "a\n-----BEGIN PRIVATE KEY-----•••• (changed)-----END PRIVATE KEY-----\n"},
		{"literal password", "v-new", "password=v-old\n", "password=v-new\n", "password=••••\n", "password=•••• (changed)\n"},
		{"value beside", "v-new", "pw = 'v-new'\nother v-new\n", "pw = " + secret + "\nother x\n", "pw = '••••'\nother ••••\n", "pw = '••••'\nother x\n"},
		{"password = ", "v-new", "password = 'v-old'\n", "password = " + secret + "\n", "password = ••••\n", "password = •••• (changed)\n"},
		{"no secret", "v-new", "a = 1\n", "a = 2\n", "a = 1\n", "a = 2\n"},
		{"newline at the end", "v-new", "pw = 'v-new'", "pw = " + secret + "\n", "••••", "pw = '••••'\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			values := map[Ref]string{}
			if test.value != "" {
				values[appRef] = test.value
			}
			old, new, err := RedactLines(test.old, test.new, lookupOf(values), nil)
			if err != nil {
				t.Fatal(err)
			}
			if old != test.wantOld {
				t.Errorf("old\n got %q\nwant %q", old, test.wantOld)
			}
			if new != test.wantNew {
				t.Errorf("new\n got %q\nwant %q", new, test.wantNew)
			}
		})
	}
	if _, _, err := RedactLines("", raw[1:], lookupOf(nil), nil); err == nil {
		t.Error("a changed placeholder is no error")
	}
}

// FuzzRedactLines: whatever is done to the old file, neither the old value nor the
// new one is shown, and the two sides are equal only if nothing changes.
func FuzzRedactLines(f *testing.F) {
	f.Add("pw = ", "\n", "work_mem = 4MB\n", uint8(0))
	f.Add("", "", "x", uint8(1))
	f.Add("a:b:", "\nnext\n", "a:b:c", uint8(2))
	f.Fuzz(func(t *testing.T, before, after, extra string, how uint8) {
		const oldValue, newValue = "OLD~VALUE~1", "NEW~VALUE~2"
		template := before + Placeholder(appRef, Raw) + after
		if _, err := Find(template); err != nil || strings.ContainsAny(before+after+extra, "~•\x00") {
			return
		}
		expand := func(v string) string { return before + v + after }
		old := expand(oldValue)
		switch how % 4 {
		case 0:
			old = expand(newValue)
		case 1:
			old += extra
		case 2:
			old = extra + old
		}
		shownOld, shownNew, err := RedactLines(old, template, lookupOf(map[Ref]string{appRef: newValue}), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []string{oldValue, newValue} {
			if strings.Contains(shownOld, v) || strings.Contains(shownNew, v) {
				t.Fatalf("%q is shown:\n%s\n%s", v, shownOld, shownNew)
			}
		}
		if same := old == expand(newValue); same != (shownOld == shownNew) {
			t.Fatalf("the same: %v, shown\n%q\n%q\nof\n%q\n%q", same, shownOld, shownNew, old, expand(newValue))
		}
	})
}
