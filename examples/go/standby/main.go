// Follows a log through Subscribe: in order, once, without holes, also across broken streams and restarts.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"log"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "oplog-sidecar/gen/oplogv1"
	"oplog-sidecar/sidecar"
)

var (
	target  = flag.String("target", "127.0.0.1:7450", "address of the sidecar")
	logName = flag.String("log", "", "name of the log")
	from    = flag.Uint64("from", 1, "first sequence id wanted")
	until   = flag.Uint64("until", 0, "last sequence id wanted")
)

const attemptsMax = 60 // streams in a row without a frame

type standby struct {
	client            pb.OpLogServiceClient
	last, term        uint64 // of the last entry received
	chain             []byte // resuming with it proves that the log still has that entry
	logID             []byte // resuming with it proves that it is still the same log
	received, streams uint64
	hash              hash.Hash
}

func main() {
	flag.Parse()
	connection, err := sidecar.Connect(*target)
	if err != nil {
		log.Fatal(err)
	}
	s := &standby{client: pb.NewOpLogServiceClient(connection), last: *from - 1, hash: sha256.New()}
	for attempts := 0; s.last < *until; attempts++ {
		before := s.streams
		err := s.session()
		if s.streams > before {
			attempts = 0
		}
		if err != nil && (!sidecar.Transient(err) || attempts == attemptsMax) {
			log.Fatal(err)
		}
		if err != nil {
			log.Printf("again from %d: %v", s.last+1, err)
			time.Sleep(time.Second)
		}
	}
	fmt.Printf("{\"received\":%d,\"hash\":\"%x\",\"resumes\":%d}\n", s.received, s.hash.Sum(nil), s.streams-1)
}

// One stream: takes entries until the last one wanted, or until it breaks.
func (s *standby) session() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := s.client.Subscribe(ctx, &pb.SubscribeRequest{
		Log: *logName, Start: &pb.SubscribeRequest_FromSequenceId{FromSequenceId: s.last + 1},
		PreviousTerm: s.term, PreviousChain: s.chain, LogId: s.logID, Consumer: "go-standby"})
	if err != nil {
		return err
	}
	for frames := 0; s.last < *until; frames++ {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the sidecar ended the stream")
		} else if err != nil {
			return err
		}
		if frames == 0 {
			s.streams++
		}
		if heartbeat := response.GetHeartbeat(); heartbeat != nil && len(heartbeat.LogId) > 0 {
			s.logID = heartbeat.LogId
		}
		if batch := response.GetBatch(); batch != nil {
			s.take(batch)
		}
	}
	return nil
}

func (s *standby) take(batch *pb.Batch) {
	if batch.FirstSequenceId != s.last+1 {
		log.Fatalf("a batch starts at %d where %d was due", batch.FirstSequenceId, s.last+1)
	}
	for _, entry := range batch.Entries {
		if entry.SequenceId != s.last+1 {
			log.Fatalf("entry %d where %d was due", entry.SequenceId, s.last+1)
		}
		if entry.SequenceId > *until {
			return
		}
		s.last, s.term = entry.SequenceId, entry.Term
		s.received++
		s.add(entry)
	}
	s.chain = batch.LastChain
}

func (s *standby) add(entry *pb.Entry) {
	s.hash.Write(binary.BigEndian.AppendUint64(nil, entry.SequenceId))
	s.hash.Write([]byte{byte(entry.OpType)})
	s.hash.Write(binary.BigEndian.AppendUint32(nil, uint32(len(entry.Key))))
	s.hash.Write([]byte(entry.Key))
	s.hash.Write(binary.BigEndian.AppendUint32(nil, uint32(len(entry.Payload))))
	s.hash.Write(entry.Payload)
}
