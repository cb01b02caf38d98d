package main

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

const patience = 60 * time.Second

// watcher prints a line for each pushed X.509 context with a new SVID or other bundles, and counts the SVIDs.
type watcher struct {
	serials map[string]bool
	last    string
	want    int
	enough  context.CancelFunc
	failed  error
}

func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	svid := update.DefaultSVID()
	serial := fmt.Sprintf("%032x", svid.Certificates[0].SerialNumber)
	w.serials[serial] = true
	var bundles []string
	for _, bundle := range update.Bundles.Bundles() {
		bundles = append(bundles, bundle.TrustDomain().Name())
	}
	sort.Strings(bundles)
	authorities := 0
	if own, err := update.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain()); err == nil {
		authorities = len(own.X509Authorities())
	}
	seen := fmt.Sprint(serial, bundles, authorities)
	if seen == w.last {
		return
	}
	w.last = seen
	id, _, err := x509svid.Verify(svid.Certificates, update.Bundles)
	if err != nil {
		w.failed = err
	}
	say(map[string]any{"event": "x509", "id": id.String(), "serial": serial, "bundles": bundles,
		"authorities": authorities, "chain": len(svid.Certificates)})
	if len(w.serials) >= w.want || w.failed != nil {
		w.enough()
	}
}

// A watch error is not fatal: the library reconnects.
func (w *watcher) OnX509ContextWatchError(err error) {
	say(map[string]any{"event": "error", "detail": err.Error()})
}

func watch(audience string, count int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()

	x509Bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return fmt.Errorf("FetchX509Bundles: %w", err)
	}
	var names []string
	for _, bundle := range x509Bundles.Bundles() {
		names = append(names, bundle.TrustDomain().Name())
	}
	sort.Strings(names)
	say(map[string]any{"event": "x509-bundles", "bundles": names})

	jwtBundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return fmt.Errorf("FetchJWTBundles: %w", err)
	}
	names = nil
	for _, bundle := range jwtBundles.Bundles() {
		names = append(names, bundle.TrustDomain().Name())
	}
	sort.Strings(names)
	say(map[string]any{"event": "jwt-bundles", "bundles": names})

	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return fmt.Errorf("FetchJWTSVID: %w", err)
	}
	local, err := jwtsvid.ParseAndValidate(svid.Marshal(), jwtBundles, []string{audience})
	if err != nil {
		return fmt.Errorf("ParseAndValidate: %w", err)
	}
	validated, err := client.ValidateJWTSVID(ctx, svid.Marshal(), audience)
	if err != nil {
		return fmt.Errorf("ValidateJWTSVID: %w", err)
	}
	say(map[string]any{"event": "jwt", "id": svid.ID.String(), "local": local.ID.String(), "validated": validated.ID.String()})
	_, err = client.ValidateJWTSVID(ctx, svid.Marshal(), audience+"/another")
	say(map[string]any{"event": "jwt-refused", "refused": err != nil, "detail": status.Code(err).String()})

	watching, enough := context.WithCancel(ctx)
	defer enough()
	w := &watcher{serials: map[string]bool{}, want: count, enough: enough}
	err = client.WatchX509Context(watching, w)
	if w.failed != nil {
		return fmt.Errorf("Verify: %w", w.failed)
	}
	if len(w.serials) < count {
		return fmt.Errorf("saw %d SVIDs of %d: %w", len(w.serials), count, err)
	}
	return nil
}
