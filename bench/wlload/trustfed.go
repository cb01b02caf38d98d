package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

const issueMethod = "/trustfed.node.v1.Node/IssueX509"

// Field numbers of trustfed/proto/node.proto: the messages are written by hand, so that no generated code is kept here.
const (
	requestCommandID, requestSlots            = 1, 2
	slotEntryID, slotSlot, slotPublicKey      = 1, 2, 3
	responseResults                           = 1
	resultChain, resultError, resultErrorCode = 2, 5, 6
)

// rawCodec hands message bytes through untouched.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

type trustfedCaller struct {
	conn  *grpc.ClientConn
	slots []byte
	size  int
}

// newTrustfed makes the slots once, one key per entry, so that the measured time is the cluster's and not this program's.
func newTrustfed(o options) (func() (caller, error), error) {
	text, err := os.ReadFile(o.entries)
	if err != nil {
		return nil, fmt.Errorf("-entries: %w", err)
	}
	entries := strings.Fields(string(text))
	if len(entries) == 0 {
		return nil, fmt.Errorf("-entries %s: no entry id in it", o.entries)
	}
	keys := make([][]byte, len(entries))
	var slots []byte
	for i := range o.size {
		which := i % len(entries)
		if keys[which] == nil {
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return nil, err
			}
			if keys[which], err = x509.MarshalPKIXPublicKey(&private.PublicKey); err != nil {
				return nil, err
			}
		}
		slot := field(nil, slotEntryID, []byte(entries[which]))
		slot = field(slot, slotSlot, []byte("x509"))
		slot = field(slot, slotPublicKey, keys[which])
		slots = field(slots, requestSlots, slot)
	}
	return func() (caller, error) {
		conn, err := dialNode(o)
		return &trustfedCaller{conn, slots, o.size}, err
	}, nil
}

func field(out []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, number, protowire.BytesType), value)
}

func (t *trustfedCaller) close() { t.conn.Close() }

// call uses a new command id each time: a repeated one would get the stored answer.
func (t *trustfedCaller) call(ctx context.Context) error {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	request := append(field(nil, requestCommandID, []byte(hex.EncodeToString(id[:]))), t.slots...)
	var answer []byte
	if err := t.conn.Invoke(ctx, issueMethod, &request, &answer, grpc.ForceCodec(rawCodec{})); err != nil {
		return err
	}
	return count(answer, t.size)
}

// count holds when the answer has size results and each has a chain.
func count(answer []byte, size int) error {
	found := 0
	err := each(answer, func(number protowire.Number, result []byte) error {
		if number != responseResults {
			return nil
		}
		chain, refusal := 0, ""
		if err := each(result, func(number protowire.Number, value []byte) error {
			switch number {
			case resultChain:
				chain++
			case resultError, resultErrorCode:
				refusal += " " + string(value)
			}
			return nil
		}); err != nil {
			return err
		}
		if chain == 0 {
			return fmt.Errorf("refused:%s", refusal)
		}
		found++
		return nil
	})
	if err == nil && found != size {
		err = fmt.Errorf("%d results for %d", found, size)
	}
	return err
}

// each calls see for every length-delimited field of a message.
func each(message []byte, see func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return protowire.ParseError(length)
		}
		message = message[length:]
		if kind != protowire.BytesType {
			if length = protowire.ConsumeFieldValue(number, kind, message); length < 0 {
				return protowire.ParseError(length)
			}
			message = message[length:]
			continue
		}
		value, length := protowire.ConsumeBytes(message)
		if length < 0 {
			return protowire.ParseError(length)
		}
		if err := see(number, value); err != nil {
			return err
		}
		message = message[length:]
	}
	return nil
}
