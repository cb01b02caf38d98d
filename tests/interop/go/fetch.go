package main

import (
	"context"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// fetch is a federated domain's reader: profile https_spiffe of the SPIFFE Federation standard, section 5.2.2.
func fetch(url, endpoint, file string) error {
	id, err := spiffeid.FromString(endpoint)
	if err != nil {
		return err
	}
	known, err := spiffebundle.Load(id.TrustDomain(), file)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	fetched, err := federation.FetchBundle(ctx, id.TrustDomain(), url, federation.WithSPIFFEAuth(known, id))
	if err != nil {
		return err
	}
	sequence, _ := fetched.SequenceNumber()
	hint, _ := fetched.RefreshHint()
	say(map[string]any{"x509": len(fetched.X509Authorities()), "jwt": len(fetched.JWTAuthorities()),
		"sequence": sequence, "refresh_hint": int(hint.Seconds())})
	return nil
}
