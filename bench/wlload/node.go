package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// dialNode connects as the node whose svid.pem, key.pem and bundle.pem are in o.credentials, and accepts only o.server.
func dialNode(o options) (*grpc.ClientConn, error) {
	server, err := spiffeid.FromString(o.server)
	if err != nil {
		return nil, fmt.Errorf("-server %q: %w", o.server, err)
	}
	at := func(name string) string { return filepath.Join(o.credentials, name) }
	svid, err := x509svid.Load(at("svid.pem"), at("key.pem"))
	if err != nil {
		return nil, err
	}
	bundle, err := x509bundle.Load(server.TrustDomain(), at("bundle.pem"))
	if err != nil {
		return nil, err
	}
	return dialTLS(o.address, tlsconfig.MTLSClientConfig(svid, bundle, tlsconfig.AuthorizeID(server)))
}

func dialTLS(address string, config *tls.Config) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
}

// newKey makes a P-256 key with its certificate request, both DER.
func newKey() (key, request []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if key, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return nil, nil, err
	}
	request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	return key, request, err
}

func writePEM(path, kind string, blocks ...[]byte) error {
	var text []byte
	for _, block := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: block})...)
	}
	return os.WriteFile(path, text, 0o600)
}
