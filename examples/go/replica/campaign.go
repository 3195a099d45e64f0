package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "oplog-sidecar/gen/oplogv1"
	"oplog-sidecar/sidecar"
)

// How long the sidecar has to end a campaign from which this replica has withdrawn.
const resignTimeout = 10 * time.Second

// Stands for the leadership again and again: who has lost it goes on as a standby.
func (r *replica) campaign(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.candidacy(ctx)
		if err != nil {
			log.Print("the campaign has ended: ", err)
		}
		switch reason := sidecar.Reason(err); {
		case err == nil, sidecar.Transient(err):
		case reason == "CANDIDATE_EXISTS", reason == "TOO_MANY": // One that has died is forgotten after its TTL.
		default:
			log.Fatal("it would end so again")
		}
		sidecar.Pause(ctx, retryPause)
	}
}

// One campaign, until it is lost, the stream breaks, or the context ends.
func (r *replica) candidacy(ctx context.Context) error {
	streamCtx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := r.leadership.Campaign(streamCtx)
	if err != nil {
		return err
	}
	ttl := time.Duration(*ttlMs) * time.Millisecond
	candidate := &pb.Candidate{Log: *logName, Id: *id, Endpoint: *endpoint, Ttl: durationpb.New(ttl), AliveWithin: durationpb.New(ttl)}
	if err := stream.Send(&pb.CampaignRequest{Message: &pb.CampaignRequest_Candidate{Candidate: candidate}}); err != nil {
		_, err = stream.Recv()
		return eofIsUnavailable(err)
	}
	ready := make(chan *pb.Ready)
	go send(ctx, stream, ready, ttl/3)
	defer context.AfterFunc(ctx, func() { time.AfterFunc(resignTimeout, cancel) })()

	// One of the two at a time, or none: both end before the next begins.
	preparing, leading := nothing, nothing
	defer func() { preparing.stop(); leading.stop() }()
	r.leaseEndNs.Store(0)
	for {
		response, err := stream.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if leading != nothing {
				report("lost", "reason", "STREAM_BROKEN")
			}
			return eofIsUnavailable(err)
		}
		switch message := response.Message.(type) {
		case *pb.CampaignResponse_Waiting:
			preparing.stop()
			report("waiting", "leader", message.Waiting.Leader.GetId())
		case *pb.CampaignResponse_Prepare:
			preparing.stop()
			prepare := message.Prepare
			report("prepare", "term", prepare.Term, "final", prepare.FinalSequenceId, "hand_over", prepare.IsHandOver)
			preparing = start(ctx, func(ctx context.Context) { r.prepare(ctx, prepare, ready) })
		case *pb.CampaignResponse_Leading:
			leading.stop()
			report("leading", "term", message.Leading.Term, "next", message.Leading.NextSequenceId)
			leading = start(ctx, func(ctx context.Context) { r.lead(ctx, message.Leading.Term) })
		case *pb.CampaignResponse_LeaseRenewed:
			r.leaseEndNs.Store(message.LeaseRenewed.ValidUntilMonotonicNs)
		case *pb.CampaignResponse_Lost:
			leading.stop()
			report("lost", "reason", strings.TrimPrefix(message.Lost.Reason.String(), "LOST_REASON_"))
			log.Print("lost: ", message.Lost.Message)
			return nil
		}
	}
}

// All that is sent after the first message: one goroutine, since a stream takes one message at a time. When the context
// ends it closes the stream, which gives the leadership up.
func send(ctx context.Context, stream pb.LeadershipService_CampaignClient, ready <-chan *pb.Ready, interval time.Duration) {
	alive := time.NewTicker(interval)
	defer alive.Stop()
	for {
		request := &pb.CampaignRequest{Message: &pb.CampaignRequest_Alive{Alive: &pb.Alive{}}}
		select {
		case <-alive.C:
		case answer := <-ready:
			request.Message = &pb.CampaignRequest_Ready{Ready: answer}
		case <-ctx.Done():
			stream.CloseSend()
			return
		case <-stream.Context().Done():
			return
		}
		if stream.Send(request) != nil {
			return // Recv tells why.
		}
	}
}

// Answers Prepare once everything has been applied. A state that is beyond the final entry shows that this Prepare holds
// no more, since a hand-over was abandoned: another message follows.
func (r *replica) prepare(ctx context.Context, prepare *pb.Prepare, ready chan<- *pb.Ready) {
	applied, hash, chain, err := r.state.reach(ctx, prepare.FinalSequenceId)
	if err != nil || applied != prepare.FinalSequenceId {
		return
	}
	report("ready", "applied", applied, "state_hash", fmt.Sprintf("%x", hash))
	select {
	case ready <- &pb.Ready{Term: prepare.Term, AppliedSequenceId: applied, StateHash: hash, AppliedChain: chain}:
	case <-ctx.Done():
	}
}

// task runs until it is told to stop; stop returns when it has.
type task struct{ stop func() }

var nothing = &task{stop: func() {}}

func start(ctx context.Context, run func(context.Context)) *task {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx)
	}()
	return &task{stop: func() { cancel(); <-ended }}
}

func eofIsUnavailable(err error) error {
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Unavailable, "the sidecar ended the stream")
	}
	return err
}
