package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

type question struct {
	Name, Kind, Chain, Key, Anchors, Token, Audience string
	TrustDomain                                      string `json:"trust_domain"`
}

type verifier struct {
	folder  string
	bundles *spiffebundle.Set
}

func verify(folder string) error {
	text, err := os.ReadFile(filepath.Join(folder, "cases.json"))
	if err != nil {
		return err
	}
	var document struct {
		TrustDomains map[string]string `json:"trust_domains"`
		Cases        []question
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return err
	}
	v := verifier{folder, spiffebundle.NewSet()}
	for name, file := range document.TrustDomains {
		bundle, err := spiffebundle.Load(spiffeid.RequireTrustDomainFromString(name), filepath.Join(folder, file))
		if err != nil {
			return err
		}
		v.bundles.Add(bundle)
	}
	for _, q := range document.Cases {
		detail, err := v.answer(q)
		if err != nil {
			detail = err.Error()
		}
		say(map[string]any{"case": q.Name, "ok": err == nil, "detail": detail})
	}
	return nil
}

func (v verifier) answer(q question) (string, error) {
	switch q.Kind {
	case "bundle":
		return v.bundle(q)
	case "svid":
		svid, err := x509svid.Load(filepath.Join(v.folder, q.Chain), filepath.Join(v.folder, q.Key))
		if err != nil {
			return "", err
		}
		return svid.ID.String(), nil
	case "spiffe":
		chain, err := v.certificates(q.Chain)
		if err != nil {
			return "", err
		}
		id, _, err := x509svid.Verify(chain, v.bundles)
		return id.String(), err
	case "pkix":
		return "", v.pkix(q)
	case "jwt":
		svid, err := jwtsvid.ParseAndValidate(q.Token, v.bundles, []string{q.Audience})
		if err != nil {
			return "", err
		}
		return svid.ID.String(), nil
	}
	return "", fmt.Errorf("unknown kind %q", q.Kind)
}

func (v verifier) bundle(q question) (string, error) {
	bundle, err := v.bundles.GetBundleForTrustDomain(spiffeid.RequireTrustDomainFromString(q.TrustDomain))
	if err != nil {
		return "", err
	}
	var kids []string
	for kid := range bundle.JWTAuthorities() {
		kids = append(kids, kid)
	}
	sort.Strings(kids)
	sequence, _ := bundle.SequenceNumber()
	hint, _ := bundle.RefreshHint()
	return fmt.Sprintf("%d %s %d %d", len(bundle.X509Authorities()), strings.Join(kids, ","), sequence, int(hint.Seconds())), nil
}

// pkix verifies the way crypto/tls verifies a server, without a host name.
func (v verifier) pkix(q question) error {
	chain, err := v.certificates(q.Chain)
	if err != nil {
		return err
	}
	anchors, err := v.certificates(q.Anchors)
	if err != nil {
		return err
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, anchor := range anchors {
		options.Roots.AddCert(anchor)
	}
	for _, intermediate := range chain[1:] {
		options.Intermediates.AddCert(intermediate)
	}
	_, err = chain[0].Verify(options)
	return err
}

func (v verifier) certificates(file string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(filepath.Join(v.folder, file))
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return found, nil
}
