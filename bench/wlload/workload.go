package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// workloadCaller is one workload. Its connection stays open, except in mode conn.
type workloadCaller struct {
	o    options
	conn *grpc.ClientConn
}

func newWorkload(o options) (caller, error) {
	conn, err := dial(o.address)
	return &workloadCaller{o, conn}, err
}

func dial(address string) (*grpc.ClientConn, error) {
	quick := backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.2, MaxDelay: 10 * time.Millisecond}
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}))
}

func (w *workloadCaller) close() { w.conn.Close() }

func (w *workloadCaller) call(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	ctx, cancel := context.WithCancel(ctx) // ends the stream once its first answer is here
	defer cancel()
	conn := w.conn
	if w.o.mode == "conn" {
		var err error
		if conn, err = dial(w.o.address); err != nil {
			return err
		}
		defer conn.Close()
	}
	client := workload.NewSpiffeWorkloadAPIClient(conn)
	switch w.o.mode {
	case "jwt":
		answer, err := client.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{w.o.audience}})
		if err == nil && len(answer.Svids) == 0 {
			return errors.New("an answer without a JWT-SVID")
		}
		return err
	case "bundles":
		stream, err := client.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
		if err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err == nil && len(answer.Bundles) == 0 {
			return errors.New("an answer without a bundle")
		}
		return err
	}
	stream, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err == nil && len(answer.Svids) == 0 {
		return errors.New("an answer without an X509-SVID")
	}
	return err
}

// answered is one line of first and watch: when it came, which SPIFFE IDs, and a digest of each bundle.
type answered struct {
	UnixNs  int64             `json:"unix_ns"`
	IDs     []string          `json:"ids"`
	Bundles map[string]string `json:"bundles"`
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

func read(answer *workload.X509SVIDResponse) answered {
	line := answered{UnixNs: time.Now().UnixNano(), IDs: []string{}, Bundles: map[string]string{}}
	for _, svid := range answer.Svids {
		line.IDs = append(line.IDs, svid.SpiffeId)
		line.Bundles["home"] = digest(svid.Bundle)
	}
	sort.Strings(line.IDs)
	for domain, bundle := range answer.FederatedBundles {
		line.Bundles[domain] = digest(bundle)
	}
	return line
}

// first retries every 5 ms until an X509-SVID comes: the agent may not have begun to listen.
func first(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	outgoing := metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	var last error
	for ctx.Err() == nil {
		answer, err := try(outgoing, o)
		if err == nil && len(answer.Svids) > 0 {
			return json.NewEncoder(os.Stdout).Encode(read(answer))
		}
		last = err
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("no SVID within %s; last error: %v", o.timeout, last)
}

// try uses a connection of its own, so that no back-off of an earlier one delays it.
func try(ctx context.Context, o options) (*workload.X509SVIDResponse, error) {
	conn, err := dial(o.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return nil, err
	}
	return stream.Recv()
}

func watch(o options) error {
	conn, err := dial(o.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	lines := json.NewEncoder(os.Stdout)
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := lines.Encode(read(answer)); err != nil {
			return err
		}
	}
}
