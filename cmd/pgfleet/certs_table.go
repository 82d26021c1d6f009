package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A certsDocument is what certs list found.
type certsDocument struct {
	Format       int           `json:"format"`
	Pgfleet      string        `json:"pgfleet"`
	Fleet        string        `json:"fleet"`
	CAs          []listedCA    `json:"cas"`
	Rotation     *caStatus     `json:"rotation,omitempty"` // nil where the CA is not changing
	Certificates []listedCert  `json:"certificates"`       // on hosts, and exported ones
	CRLs         []listedCRL   `json:"crls"`
	Files        []listedFile  `json:"files,omitempty"`    // that have to be written
	Problems     []listProblem `json:"problems,omitempty"` // instances that could not be asked
	Due          bool          `json:"due"`
	now          time.Time
}

// A span of time is a lifetime.
type lifetime struct {
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

type listedCA struct {
	Subject     string `json:"subject"`
	Fingerprint string `json:"fingerprint"` // SHA-256
	Signs       bool   `json:"signs"`
	lifetime
	Due string `json:"due,omitempty"`
}

type listedCert struct {
	Instance inventory.InstanceID `json:"instance,omitempty"` // none for an exported one
	File     string               `json:"file"`
	Usage    string               `json:"usage"`
	Subject  string               `json:"subject"`
	Names    []string             `json:"names"`
	Issuer   string               `json:"issuer"`
	Serial   string               `json:"serial"`
	lifetime
	// Served says whether the server presents this certificate: "yes", "no", or
	// "unknown"; empty where it is none that a server presents.
	Served  string `json:"served,omitempty"`
	Revoked bool   `json:"revoked,omitempty"`
	Due     string `json:"due,omitempty"` // why a new one is due

	missing bool // there is none
}

type listedCRL struct {
	Instance inventory.InstanceID `json:"instance"`
	File     string               `json:"file"`
	Issuer   string               `json:"issuer"`
	Revoked  int                  `json:"revoked"` // how many certificates it holds
	lifetime
	Due string `json:"due,omitempty"`
}

type listedFile struct {
	Instance inventory.InstanceID `json:"instance"`
	File     string               `json:"file"`
	Due      string               `json:"due"`
}

type listProblem struct {
	Instance inventory.InstanceID `json:"instance,omitempty"` // none for what is here
	Error    string               `json:"error"`
}

// names are the names and addresses of a certificate.
func namesOf(l pki.Leaf) []string {
	names := append([]string{}, l.DNSNames...)
	for _, ip := range l.IPs {
		names = append(names, ip.String())
	}
	return names
}

// barWidth is how many blocks a bar has.
const barWidth = 12

// bar shows how much of a lifetime is left: full when it has just begun. The last
// block goes when nothing is left.
func (l lifetime) bar(now time.Time) string {
	whole, left := l.NotAfter.Sub(l.NotBefore), l.NotAfter.Sub(now)
	n := 0
	if whole > 0 && left > 0 {
		n = min(barWidth, int((left*barWidth+whole-1)/whole))
	}
	return strings.Repeat("█", n) + strings.Repeat("░", barWidth-n)
}

// left is how long something is valid still.
func (l lifetime) left(now time.Time) string {
	left := l.NotAfter.Sub(now)
	switch {
	case left < 0:
		return "expired"
	case now.Before(l.NotBefore):
		return "not valid yet"
	}
	return tasks.AgeText(left)
}

// cells are the time left and its bar, in the colour of what is to be done.
func (l lifetime) cells(now time.Time, due string, st style) (left, bar string) {
	color := st.green
	switch {
	case l.NotAfter.Before(now):
		color = st.red
	case due != "":
		color = st.yellow
	}
	return color(l.left(now)), color(l.bar(now))
}

// renderCerts returns the tables of certs list.
func renderCerts(d certsDocument, st style) string {
	var parts []string
	var due []string
	rows := [][]string{{st.bold("CA"), st.bold("USE"), st.bold("LEFT"), st.bold(""), st.bold("UNTIL")}}
	for _, c := range d.CAs {
		use := "trusted"
		if c.Signs {
			use = "signs"
		}
		left, bar := c.cells(d.now, c.Due, st)
		rows = append(rows, []string{clean(c.Subject), use, left, bar, day(c.NotAfter)})
		if c.Due != "" {
			due = append(due, clean(c.Due))
		}
	}
	parts = append(parts, columns(rows))

	if len(d.Certificates) > 0 {
		rows = [][]string{{st.bold("WHERE"), st.bold("USAGE"), st.bold("SUBJECT"), st.bold("NAMES"), st.bold("ISSUER"), st.bold("LEFT"), st.bold(""), st.bold("SERVED")}}
		for _, c := range d.Certificates {
			left, bar := c.cells(d.now, c.Due, st)
			switch {
			case c.Revoked:
				left = st.red("revoked")
			case c.missing:
				left, bar = st.red("none"), ""
			}
			served := c.Served
			if served == "no" {
				served = st.red("no")
			}
			where := string(c.Instance)
			if where == "" {
				where = c.File
			}
			rows = append(rows, []string{clean(where), c.Usage, clean(c.Subject), clean(strings.Join(c.Names, ", ")), clean(c.Issuer), left, bar, served})
			switch {
			case c.Due != "" && c.Instance == "":
				due = append(due, clean(c.Due))
			case c.Due != "":
				due = append(due, fmt.Sprintf("%s: %s: %s", clean(where), clean(c.File), clean(c.Due)))
			}
		}
		parts = append(parts, columns(rows))
	}

	if len(d.CRLs) > 0 {
		rows = [][]string{{st.bold("WHERE"), st.bold("REVOCATION LIST OF"), st.bold("REVOKED"), st.bold("LEFT"), st.bold("")}}
		for _, c := range d.CRLs {
			left, bar := c.cells(d.now, c.Due, st)
			rows = append(rows, []string{clean(string(c.Instance)), clean(c.Issuer), fmt.Sprint(c.Revoked), left, bar})
			if c.Due != "" {
				due = append(due, fmt.Sprintf("%s: %s", clean(string(c.Instance)), clean(c.Due)))
			}
		}
		parts = append(parts, columns(rows))
	}

	var last strings.Builder
	for _, p := range d.Problems {
		who := string(p.Instance)
		if who == "" {
			who = "the CA"
		}
		fmt.Fprintf(&last, "%s %s\n", st.red(who+":"), clean(p.Error))
	}
	for _, f := range d.Files {
		due = append(due, fmt.Sprintf("%s: %s: %s", clean(string(f.Instance)), clean(f.File), clean(f.Due)))
	}
	for _, text := range due {
		fmt.Fprintf(&last, "%s %s\n", st.yellow("due:"), text)
	}
	if d.Rotation != nil {
		last.WriteString(d.Rotation.text(st))
	}
	last.WriteString(d.endsFirst() + "\n")
	return strings.Join(append(parts, last.String()), "\n")
}

// endsFirst names what ends first.
func (d certsDocument) endsFirst() string {
	what, end := "", time.Time{}
	see := func(text string, l lifetime) {
		if what == "" || l.NotAfter.Before(end) {
			what, end = text, l.NotAfter
		}
	}
	for _, c := range d.Certificates {
		where := "on " + string(c.Instance)
		if c.Instance == "" {
			where = "in " + c.File
		}
		if !c.Revoked && !c.missing {
			see(fmt.Sprintf("the certificate of %s %s", c.Subject, where), c.lifetime)
		}
	}
	for _, c := range d.CRLs {
		see(fmt.Sprintf("the revocation list of %s on %s", c.Issuer, c.Instance), c.lifetime)
	}
	for _, c := range d.CAs {
		see("the CA "+c.Subject, c.lifetime)
	}
	switch {
	case what == "":
		return "there are no certificates"
	case end.Before(d.now):
		return fmt.Sprintf("%s ended first, on %s", clean(what), day(end))
	}
	return fmt.Sprintf("%s ends first, in %s", clean(what), tasks.AgeText(end.Sub(d.now)))
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
