// Appends entries to a log through AppendStream: pipelined, and exactly once across broken streams and restarts.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "oplog-sidecar/gen/oplogv1"
)

var (
	target          = flag.String("target", "127.0.0.1:7450", "address of the sidecar")
	logName         = flag.String("log", "", "name of the log")
	writer          = flag.String("writer", "", "writer id; together with the operation ids it makes retries exactly once")
	count           = flag.Uint64("count", 0, "entries to append")
	entriesPerBatch = flag.Uint64("entries-per-append", 1, "entries of one append")
	payloadBytes    = flag.Int("payload-bytes", 200, "size of a payload")
)

const (
	inFlightMax = 64 // appends sent and not answered
	attemptsMax = 60 // streams in a row without an answer
)

// Answers come in the order of the requests, so one number tells what is left to send: operations are numbered from 1,
// and those above `answered` are sent, or sent again, in order and with the same ids.
type master struct {
	client                                pb.OpLogServiceClient
	operations, answered                  uint64
	acknowledged, duplicates, first, last uint64
}

func main() {
	flag.Parse()
	reconnect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}}
	connection, err := grpc.NewClient(*target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(reconnect))
	if err != nil {
		log.Fatal(err)
	}
	m := &master{client: pb.NewOpLogServiceClient(connection)}
	m.operations = (*count + *entriesPerBatch - 1) / *entriesPerBatch
	for attempts := 0; m.answered < m.operations; attempts++ {
		before := m.answered
		err := m.session()
		if m.answered > before {
			attempts = 0
		}
		if err != nil && (!transient(status.Code(err)) || attempts == attemptsMax) {
			log.Fatal(err)
		}
		if err != nil {
			log.Printf("again from operation %d: %v", m.answered+1, err)
			time.Sleep(time.Second)
		}
	}
	fmt.Printf("{\"acknowledged\":%d,\"first\":%d,\"last\":%d,\"duplicates\":%d}\n", m.acknowledged, m.first, m.last, m.duplicates)
	if m.acknowledged < *count {
		log.Fatalf("%d entries were refused", *count-m.acknowledged)
	}
}

// One stream: sends everything that has no answer yet and takes the answers, until all are there or it breaks.
func (m *master) session() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := m.client.AppendStream(ctx)
	if err != nil {
		return err
	}
	window := make(chan struct{}, inFlightMax)
	go func(operation uint64) {
		for ; operation <= m.operations; operation++ {
			select {
			case window <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if stream.Send(m.request(operation)) != nil {
				return // Recv tells why.
			}
		}
		stream.CloseSend()
	}(m.answered + 1)
	for m.answered < m.operations {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the sidecar ended the stream")
		} else if err != nil {
			return err
		}
		if err := m.take(answer); err != nil {
			return err
		}
		<-window
	}
	return nil
}

func (m *master) take(answer *pb.AppendStreamResponse) error {
	if answer.CorrelationId != m.answered+1 {
		log.Fatalf("answer %d where %d was due", answer.CorrelationId, m.answered+1)
	}
	if refusal := answer.GetError(); refusal != nil {
		if transient(codes.Code(refusal.Code)) {
			return status.Error(codes.Code(refusal.Code), refusal.Message)
		}
		m.answered++
		log.Printf("operation %d refused: %s %s: %s", m.answered, codes.Code(refusal.Code), reason(refusal), refusal.Message)
		return nil
	}
	m.answered++
	appended := answer.GetAppended()
	entries := appended.LastSequenceId - appended.FirstSequenceId + 1
	m.acknowledged += entries
	if appended.Duplicate {
		m.duplicates += entries
	}
	if m.first == 0 {
		m.first = appended.FirstSequenceId
	}
	m.last = appended.LastSequenceId
	return nil
}

// A function of the operation id alone. A real master keeps the operations that are not answered yet.
func (m *master) request(operation uint64) *pb.AppendStreamRequest {
	var entries []*pb.Entry
	for i := (operation - 1) * *entriesPerBatch; i < min(operation**entriesPerBatch, *count); i++ {
		entry := &pb.Entry{OpType: pb.OpType_OP_TYPE_REMOVE, Key: fmt.Sprintf("object/%d", i%100)}
		if i%10 != 9 {
			entry.OpType = pb.OpType_OP_TYPE_PUT_END
			entry.Payload = bytes.Repeat([]byte{byte(i)}, *payloadBytes)
		}
		entries = append(entries, entry)
	}
	return &pb.AppendStreamRequest{CorrelationId: operation, Append: &pb.AppendRequest{
		Log: *logName, Entries: entries, WriterId: *writer, OperationId: operation}}
}

func transient(code codes.Code) bool {
	return code == codes.Unavailable || code == codes.Unknown || code == codes.Internal || code == codes.Canceled
}

func reason(refusal *pb.Status) string {
	for _, detail := range refusal.Details {
		if info := new(errdetails.ErrorInfo); detail.MessageIs(info) && detail.UnmarshalTo(info) == nil {
			return info.Reason
		}
	}
	return ""
}
