package pki

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// CheckName says why a certificate for a host name, before which "*." may stand, cannot be
// signed by a CA; nil if it can. The CAs are the one that signs and those above it, whose
// name constraints (RFC 5280, 4.2.1.10) all count; there may be none.
func CheckName(name string, cas []*x509.Certificate) error {
	name = strings.TrimPrefix(name, "*.")
	if err := checkDNSName(name); err != nil {
		return err
	}
	return permitsName(name, cas)
}

// CheckAddress is [CheckName] for an address.
func CheckAddress(addr netip.Addr, cas []*x509.Certificate) error {
	if !addr.IsValid() || addr.Zone() != "" {
		return fmt.Errorf("%q is not an address that a certificate can hold", addr)
	}
	ip := net.IP(addr.Unmap().AsSlice())
	in := func(networks []*net.IPNet) bool {
		for _, n := range networks {
			if len(n.IP) == len(ip) && n.Contains(ip) {
				return true
			}
		}
		return false
	}
	for _, ca := range cas {
		if in(ca.ExcludedIPRanges) || len(ca.PermittedIPRanges) > 0 && !in(ca.PermittedIPRanges) {
			return fmt.Errorf("the CA %s may not sign for the address %s: its name constraints permit %s", ca.Subject.CommonName, addr, permitted(ca))
		}
	}
	return nil
}

// CheckCommonName is [CheckName] for the common name of a certificate without host names.
// OpenSSL compares one that looks like a host name with the name constraints, as if it were
// one (NAME_CONSTRAINTS_check_CN in crypto/x509/v3_ncons.c), and so do PostgreSQL and libpq;
// Go does not.
func CheckCommonName(name string, cas []*x509.Certificate) error {
	if !looksLikeHost(name) {
		return nil
	}
	if err := permitsName(name, cas); err != nil {
		return fmt.Errorf("a common name with a dot counts as a host name: %w", err)
	}
	return nil
}

// looksLikeHost is cn2dnsid of v3_ncons.c: letters, digits, "_" and "-", and at least one
// dot between two labels.
func looksLikeHost(name string) bool {
	dots := 0
	for i := range len(name) {
		c := name[i]
		inside := i > 0 && i < len(name)-1
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-' && inside:
		case c == '.' && inside && name[i+1] != '.' && name[i-1] != '-' && name[i+1] != '-':
			dots++
		default:
			return false
		}
	}
	return dots > 0
}

func permitsName(name string, cas []*x509.Certificate) error {
	in := func(domains []string) bool {
		for _, d := range domains {
			if below(name, d) {
				return true
			}
		}
		return false
	}
	for _, ca := range cas {
		if in(ca.ExcludedDNSDomains) || len(ca.PermittedDNSDomains) > 0 && !in(ca.PermittedDNSDomains) {
			return fmt.Errorf("the CA %s may not sign for the name %s: its name constraints permit %s", ca.Subject.CommonName, name, permitted(ca))
		}
	}
	return nil
}

// below reports whether a name is a domain or is in it. All are in the empty one; one that
// begins with a dot stands for what is below it alone.
func below(name, domain string) bool {
	name, domain = strings.ToLower(name), strings.ToLower(domain)
	return domain == "" || name == domain || strings.HasSuffix(name, "."+strings.TrimPrefix(domain, "."))
}

// permitted says what name constraints permit.
func permitted(ca *x509.Certificate) string {
	all := append([]string{}, ca.PermittedDNSDomains...)
	for _, n := range ca.PermittedIPRanges {
		all = append(all, n.String())
	}
	if len(all) == 0 {
		return "other names only"
	}
	return strings.Join(all, ", ")
}
