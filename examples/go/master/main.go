// Appends entries to a log through AppendStream: pipelined, and exactly once across broken streams, restarts and changes
// of the leader.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "oplog-sidecar/gen/oplogv1"
	"oplog-sidecar/sidecar"
)

var (
	targets         = flag.String("target", "127.0.0.1:7450", "addresses of sidecars, with commas between them: tried in turn until one names the leader")
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
	operations, answered                  uint64
	acknowledged, duplicates, first, last uint64
}

func main() {
	flag.Parse()
	m := &master{operations: (*count + *entriesPerBatch - 1) / *entriesPerBatch}
	if err := m.run(strings.Split(*targets, ",")); err != nil {
		log.Fatalf("%q", err)
	}
	fmt.Printf("{\"acknowledged\":%d,\"first\":%d,\"last\":%d,\"duplicates\":%d}\n", m.acknowledged, m.first, m.last, m.duplicates)
	if m.acknowledged < *count {
		log.Fatalf("%d entries were refused", *count-m.acknowledged)
	}
}

// One stream after the other, until everything has an answer: at the leader as soon as somebody has named it, else at
// the sidecars given, in turn.
func (m *master) run(given []string) error {
	target, turn := given[0], 0
	for attempts := 0; m.answered < m.operations; attempts++ {
		before := m.answered
		err := m.session(target)
		if err == nil {
			return nil
		}
		if m.answered > before {
			attempts = 0
		}
		if !sidecar.Transient(err) || attempts == attemptsMax {
			return err
		}
		// Quoted, here and below: the address of a leader is what somebody else has chosen.
		log.Printf("again from operation %d, after %q: %q", m.answered+1, target, err)
		leader := sidecar.LeaderEndpoint(err)
		if leader != "" && leader != target {
			target = leader
			if attempts == 0 {
				continue // Later ones wait: two sidecars that name each other must not be asked in a tight loop.
			}
		} else {
			turn++
			target = given[turn%len(given)]
		}
		time.Sleep(sidecar.RetryDelay(err, time.Second))
	}
	return nil
}

// One stream: sends everything that has no answer yet and takes the answers, until all are there or it breaks.
func (m *master) session(target string) error {
	connection, err := sidecar.Connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := pb.NewOpLogServiceClient(connection).AppendStream(ctx)
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
		err := sidecar.Error(refusal)
		if sidecar.Transient(err) {
			return err
		}
		m.answered++
		log.Printf("operation %d refused: %s: %q", m.answered, sidecar.Reason(err), err)
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
