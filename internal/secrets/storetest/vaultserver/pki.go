package vaultserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A pkiMount is a PKI engine with one issuer: what is needed of config/ca, roles/NAME
// and sign/NAME.
type pkiMount struct {
	issuer *x509.Certificate
	above  []*x509.Certificate
	key    crypto.Signer
	roles  map[string]pkiRole
}

// A pkiRole is what of a role is known. The rest is refused.
type pkiRole struct {
	allowedDomains             []string
	allowBare, allowSubdomains bool
	allowAny, enforceHostnames bool
	useCSRSANs, useCSRName     bool
	server, client             bool
	keyType                    string
	maxTTL                     time.Duration
}

// mount mounts a PKI engine, or takes it away.
func (s *Server) mount(r *http.Request, name string, body map[string]any) (answer, *apiError) {
	switch {
	case r.Method == http.MethodPost && body["type"] == "pki":
		s.engines[name] = &pkiMount{roles: map[string]pkiRole{}}
	case r.Method == http.MethodDelete && s.engines[name] != nil:
		delete(s.engines, name)
	default:
		return answer{}, s.unknown(r)
	}
	return answer{}, nil
}

func (m *pkiMount) serve(method, path string, body map[string]any) (a answer, failure *apiError, known bool) {
	endpoint, name, _ := strings.Cut(path, "/")
	switch {
	case method != http.MethodPost:
		return answer{}, nil, false
	case path == "config/ca":
		return answer{}, m.importCA(body), true
	case endpoint == "roles":
		role, ok := newPKIRole(body)
		m.roles[name] = role
		return answer{}, nil, ok
	case endpoint == "sign":
		a, failure = m.sign(name, body)
		return a, failure, true
	}
	return answer{}, nil, false
}

func (m *pkiMount) importCA(body map[string]any) *apiError {
	rest := []byte(fmt.Sprint(body["pem_bundle"]))
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		var err error
		if block.Type == "EC PRIVATE KEY" {
			var key *ecdsa.PrivateKey
			key, err = x509.ParseECPrivateKey(block.Bytes)
			m.key = key
		} else {
			var cert *x509.Certificate
			cert, err = x509.ParseCertificate(block.Bytes)
			if m.issuer == nil {
				m.issuer = cert
			} else {
				m.above = append(m.above, cert)
			}
		}
		if err != nil {
			return refuse(http.StatusBadRequest, "error parsing the bundle: %v", err)
		}
	}
}

// newPKIRole returns the role, and whether all that is said of it is known.
func newPKIRole(body map[string]any) (pkiRole, bool) {
	r := pkiRole{enforceHostnames: true, useCSRSANs: true, useCSRName: true, server: true, client: true, keyType: "rsa", maxTTL: 32 * 24 * time.Hour}
	flags := map[string]*bool{
		"allow_bare_domains": &r.allowBare, "allow_subdomains": &r.allowSubdomains, "allow_any_name": &r.allowAny, "enforce_hostnames": &r.enforceHostnames,
		"use_csr_sans": &r.useCSRSANs, "use_csr_common_name": &r.useCSRName, "server_flag": &r.server, "client_flag": &r.client,
	}
	for key, value := range body {
		var ok bool
		switch key {
		case "allowed_domains":
			var text string
			if text, ok = value.(string); ok {
				r.allowedDomains = strings.Split(text, ",")
			}
		case "key_type":
			r.keyType, ok = value.(string)
		case "max_ttl":
			r.maxTTL, ok = seconds(value)
		default:
			if flags[key] == nil {
				return r, false
			}
			*flags[key], ok = value.(bool)
		}
		if !ok {
			return r, false
		}
	}
	return r, true
}

// seconds reads a duration of the form 90s or 90m or 90h.
func seconds(v any) (time.Duration, bool) {
	text, ok := v.(string)
	d, err := time.ParseDuration(text)
	return d, ok && err == nil
}

// allows reports whether the role allows a name.
func (r pkiRole) allows(name string) bool {
	isHost := !strings.ContainsFunc(name, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.')
	})
	if r.enforceHostnames && !isHost {
		return false
	}
	return r.allowAny || slices.ContainsFunc(r.allowedDomains, func(domain string) bool {
		return r.allowBare && name == domain || r.allowSubdomains && strings.HasSuffix(name, "."+domain)
	})
}

// words splits a list of the form a,b.
func words(v any) []string {
	text, _ := v.(string)
	return slices.DeleteFunc(strings.Split(text, ","), func(s string) bool { return s == "" })
}

// sign is sign/NAME.
func (m *pkiMount) sign(name string, body map[string]any) (answer, *apiError) {
	for key := range body {
		if !slices.Contains([]string{"csr", "common_name", "exclude_cn_from_sans", "alt_names", "ip_sans", "ttl", "format"}, key) {
			return answer{}, refuse(http.StatusNotImplemented, "the test server does not know the parameter %s", key)
		}
	}
	role, ok := m.roles[name]
	if !ok {
		return answer{}, refuse(http.StatusBadRequest, "unknown role: %s", name)
	}
	block, _ := pem.Decode([]byte(fmt.Sprint(body["csr"])))
	if block == nil {
		return answer{}, refuse(http.StatusBadRequest, "csr contains no data")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return answer{}, refuse(http.StatusBadRequest, "certificate request could not be parsed: %v", err)
	}
	if _, isEC := csr.PublicKey.(*ecdsa.PublicKey); role.keyType != "any" && (role.keyType == "ec") != isEC {
		return answer{}, refuse(http.StatusBadRequest, "role requires keys of type %s", role.keyType)
	}
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: fmt.Sprint(body["common_name"])}, KeyUsage: x509.KeyUsageDigitalSignature}
	if role.useCSRName && csr.Subject.CommonName != "" {
		cert.Subject.CommonName = csr.Subject.CommonName
	}
	if failure := role.names(cert, csr, body); failure != nil {
		return answer{}, failure
	}
	ttl, ok := seconds(body["ttl"])
	if !ok {
		return answer{}, refuse(http.StatusBadRequest, "Field validation failed: error converting input for field \"ttl\"")
	}
	cert.NotBefore, cert.NotAfter = time.Now().Add(-30*time.Second), time.Now().Add(min(ttl, role.maxTTL))
	if cert.NotAfter.After(m.issuer.NotAfter) {
		return answer{}, refuse(http.StatusBadRequest, "cannot satisfy request, as TTL would result in notAfter of %s that is beyond the expiration of the CA certificate at %s",
			cert.NotAfter.UTC().Format(time.RFC3339Nano), m.issuer.NotAfter.UTC().Format(time.RFC3339Nano))
	}
	for _, usage := range []struct {
		on    bool
		usage x509.ExtKeyUsage
	}{{role.server, x509.ExtKeyUsageServerAuth}, {role.client, x509.ExtKeyUsageClientAuth}} {
		if usage.on {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, usage.usage)
		}
	}
	if cert.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150)); err != nil {
		return answer{}, refuse(http.StatusInternalServerError, "%v", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, m.issuer, csr.PublicKey, m.key)
	if err != nil {
		return answer{}, refuse(http.StatusInternalServerError, "%v", err)
	}
	encode := func(der []byte) string {
		return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	chain := []string{encode(m.issuer.Raw)}
	for _, c := range m.above {
		chain = append(chain, encode(c.Raw))
	}
	return answer{data: map[string]any{
		"certificate": encode(der), "issuing_ca": chain[0], "ca_chain": chain, "serial_number": strconv.Quote(cert.SerialNumber.Text(16)), "expiration": cert.NotAfter.Unix(),
	}}, nil
}

// names gives the certificate its alternative names.
func (r pkiRole) names(cert *x509.Certificate, csr *x509.CertificateRequest, body map[string]any) *apiError {
	if !r.allows(cert.Subject.CommonName) {
		return refuse(http.StatusBadRequest, "common name %s not allowed by this role", cert.Subject.CommonName)
	}
	if r.useCSRSANs {
		cert.DNSNames, cert.IPAddresses = csr.DNSNames, csr.IPAddresses
	} else {
		cert.DNSNames = words(body["alt_names"])
		for _, text := range words(body["ip_sans"]) {
			ip := net.ParseIP(text)
			if ip == nil {
				return refuse(http.StatusBadRequest, "the value %q is not a valid IP address", text)
			}
			cert.IPAddresses = append(cert.IPAddresses, ip)
		}
	}
	if body["exclude_cn_from_sans"] != true {
		cert.DNSNames = append(cert.DNSNames, cert.Subject.CommonName)
	}
	for _, name := range cert.DNSNames {
		if !r.allows(name) {
			return refuse(http.StatusBadRequest, "subject alternate name %s not allowed by this role", name)
		}
	}
	return nil
}
