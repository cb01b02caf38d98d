package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
)

// enrol makes this program a node of a SPIRE server: only a node may call BatchNewX509SVID.
func enrol(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	server, err := spiffeid.FromString(o.server)
	if err != nil {
		return err
	}
	parent, err := spiffeid.FromString(o.parent)
	if err != nil {
		return err
	}
	local, err := dial(o.admin)
	if err != nil {
		return err
	}
	defer local.Close()
	document, err := bundlev1.NewBundleClient(local).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	bundle := x509bundle.New(server.TrustDomain())
	var anchors [][]byte
	for _, authority := range document.X509Authorities {
		certificates, err := x509.ParseCertificates(authority.Asn1)
		if err != nil {
			return err
		}
		for _, certificate := range certificates {
			bundle.AddX509Authority(certificate)
			anchors = append(anchors, certificate.Raw)
		}
	}
	token, err := agentv1.NewAgentClient(local).CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{
		Ttl: 600, AgentId: &types.SPIFFEID{TrustDomain: parent.TrustDomain().Name(), Path: parent.Path()}})
	if err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	key, request, err := newKey()
	if err != nil {
		return err
	}
	remote, err := dialTLS(o.address, tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(server)))
	if err != nil {
		return err
	}
	defer remote.Close()
	chain, err := attest(ctx, remote, token.Value, request)
	if err != nil {
		return fmt.Errorf("attest: %w", err)
	}
	at := func(name string) string { return filepath.Join(o.credentials, name) }
	if err := writePEM(at("svid.pem"), "CERTIFICATE", chain...); err != nil {
		return err
	}
	if err := writePEM(at("key.pem"), "PRIVATE KEY", key); err != nil {
		return err
	}
	return writePEM(at("bundle.pem"), "CERTIFICATE", anchors...)
}

func attest(ctx context.Context, conn *grpc.ClientConn, token string, request []byte) ([][]byte, error) {
	stream, err := agentv1.NewAgentClient(conn).AttestAgent(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{
		Params: &agentv1.AttestAgentRequest_Params{
			Data:   &types.AttestationData{Type: "join_token", Payload: []byte(token)},
			Params: &agentv1.AgentX509SVIDParams{Csr: request},
		}}})
	if err != nil {
		return nil, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	svid := answer.GetResult().GetSvid()
	if svid == nil {
		return nil, fmt.Errorf("no SVID in the answer")
	}
	return svid.CertChain, nil
}

type spireCaller struct {
	conn    *grpc.ClientConn
	request *svidv1.BatchNewX509SVIDRequest
}

// newSpire makes the batch once, one CSR per entry, so that the measured time is the server's and not this program's.
func newSpire(o options) (func() (caller, error), error) {
	conn, err := dialNode(o)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	entries, err := authorized(o, conn)
	if err != nil {
		return nil, err
	}
	params := make([]*svidv1.NewX509SVIDParams, o.size)
	requests := make([][]byte, len(entries))
	for i := range params {
		which := i % len(entries)
		if requests[which] == nil {
			if _, requests[which], err = newKey(); err != nil {
				return nil, err
			}
		}
		params[i] = &svidv1.NewX509SVIDParams{EntryId: entries[which].Id, Csr: requests[which]}
	}
	return func() (caller, error) {
		conn, err := dialNode(o)
		return &spireCaller{conn, &svidv1.BatchNewX509SVIDRequest{Params: params}}, err
	}, nil
}

// authorized waits until the server's entry cache shows this node its entries.
func authorized(o options, conn *grpc.ClientConn) ([]*types.Entry, error) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
		answer, err := entryv1.NewEntryClient(conn).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
		cancel()
		if err != nil {
			return nil, err
		}
		if len(answer.Entries) > 0 {
			return answer.Entries, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no entries for this node after 30 s")
		}
	}
}

func (s *spireCaller) close() { s.conn.Close() }

func (s *spireCaller) call(ctx context.Context) error {
	answer, err := svidv1.NewSVIDClient(s.conn).BatchNewX509SVID(ctx, s.request)
	if err != nil {
		return err
	}
	if len(answer.Results) != len(s.request.Params) {
		return fmt.Errorf("%d results for %d", len(answer.Results), len(s.request.Params))
	}
	for _, result := range answer.Results {
		if result.Svid == nil {
			return fmt.Errorf("refused: %s", result.Status.GetMessage())
		}
	}
	return nil
}
