// wlload drives one SPIFFE endpoint and prints what it saw as JSON on standard output.
//
// Modes:
//
//	x509, jwt, bundles  calls of the Workload API, each caller on one connection
//	conn                FetchX509SVID over a new connection each time
//	first               waits for the socket, prints when the first X509-SVID came
//	watch               holds FetchX509SVID open and prints one line per answer
//	enrol               joins a SPIRE server as a node, leaves svid.pem, key.pem, bundle.pem in -credentials
//	batch               BatchNewX509SVID of SPIRE, -size SVIDs a call
//	issue               IssueX509 of a trustfed cluster, -size SVIDs a call
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"
)

type options struct {
	mode, address, admin, audience, credentials, parent, entries, server string
	callers, size                                                        int
	duration, timeout                                                    time.Duration
}

// report is one measured cell. PerSecond counts SVIDs for batch and issue, calls otherwise.
type report struct {
	Mode      string  `json:"mode"`
	Callers   int     `json:"callers"`
	Size      int     `json:"size"`
	Seconds   float64 `json:"seconds"`
	Calls     int     `json:"calls"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Errors    int     `json:"errors"`
	LastError string  `json:"last_error,omitempty"`
}

// caller is one of the callers at once: it keeps its own connection between calls.
type caller interface {
	call(ctx context.Context) error
	close()
}

func main() {
	var o options
	flag.StringVar(&o.mode, "mode", "x509", "x509|jwt|bundles|conn|first|watch|enrol|batch|issue")
	flag.StringVar(&o.address, "address", "", "unix:///path of a Workload API, or host:port of an issuing server")
	flag.StringVar(&o.admin, "admin", "", "enrol: unix:///path of the SPIRE server's API socket")
	flag.StringVar(&o.audience, "audience", "bench", "jwt: the audience")
	flag.StringVar(&o.credentials, "credentials", "", "enrol, batch, issue: directory of svid.pem, key.pem, bundle.pem")
	flag.StringVar(&o.parent, "parent", "", "enrol: SPIFFE ID that the entries name as their parent")
	flag.StringVar(&o.server, "server", "", "enrol, batch, issue: SPIFFE ID that the server must present")
	flag.StringVar(&o.entries, "entries", "", "issue: file of entry ids, one a line")
	flag.IntVar(&o.callers, "n", 1, "callers at once, a connection each")
	flag.IntVar(&o.size, "size", 1, "batch, issue: SVIDs a call")
	flag.DurationVar(&o.duration, "d", 3*time.Second, "how long to measure")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Second, "limit of one call; first, watch, enrol: of the whole")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "wlload %s %s: %v\n", o.mode, o.address, err)
		os.Exit(1)
	}
}

func run(o options) error {
	if o.address == "" {
		return fmt.Errorf("no -address")
	}
	if o.callers < 1 || o.size < 1 {
		return fmt.Errorf("-n and -size start at 1")
	}
	switch o.mode {
	case "first":
		return first(o)
	case "watch":
		return watch(o)
	case "enrol":
		return enrol(o)
	case "x509", "jwt", "bundles", "conn":
		return measure(o, 1, func() (caller, error) { return newWorkload(o) })
	case "batch":
		source, err := newSpire(o)
		if err != nil {
			return err
		}
		return measure(o, o.size, source)
	case "issue":
		source, err := newTrustfed(o)
		if err != nil {
			return err
		}
		return measure(o, o.size, source)
	}
	return fmt.Errorf("no such mode")
}

// measure lets o.callers call for o.duration. One call each goes before the clock starts, so that dialling is not counted.
func measure(o options, perCall int, source func() (caller, error)) error {
	callers := make([]caller, o.callers)
	for i := range callers {
		c, err := source()
		if err != nil {
			return err
		}
		defer c.close()
		if err := once(o, c); err != nil {
			return fmt.Errorf("first call of caller %d: %w", i, err)
		}
		callers[i] = c
	}
	type seen struct {
		latencies []time.Duration
		errors    int
		last      error
	}
	results := make([]seen, o.callers)
	var group sync.WaitGroup
	start := time.Now()
	stop := start.Add(o.duration)
	for i := range callers {
		group.Add(1)
		go func(c caller, r *seen) {
			defer group.Done()
			for begun := time.Now(); begun.Before(stop); begun = time.Now() {
				if err := once(o, c); err != nil {
					r.errors++
					r.last = err
					continue
				}
				r.latencies = append(r.latencies, time.Since(begun))
			}
		}(callers[i], &results[i])
	}
	group.Wait()
	elapsed := time.Since(start).Seconds()

	out := report{Mode: o.mode, Callers: o.callers, Size: o.size, Seconds: elapsed}
	var all []time.Duration
	for _, r := range results {
		all = append(all, r.latencies...)
		out.Errors += r.errors
		if r.last != nil {
			out.LastError = r.last.Error()
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("no call succeeded; last error: %s", out.LastError)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000 }
	out.Calls, out.P50, out.P99 = len(all), at(.5), at(.99)
	out.PerSecond = float64(len(all)*perCall) / elapsed
	return json.NewEncoder(os.Stdout).Encode(out)
}

func once(o options, c caller) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	return c.call(ctx)
}
