package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"golang.org/x/sys/unix"

	pb "oplog-sidecar/gen/oplogv1"
	"oplog-sidecar/sidecar"
)

const (
	ownKeys       = 100 // keys that one replica writes, in turn
	appendTimeout = 5 * time.Second
)

// Appends at --rate, one at a time (examples/go/master keeps many in flight), and only within the time that the lease was
// promised for. An append whose outcome is not known is sent again with the same operation id; if the leadership is
// lost before it has an answer, the log decides: before this replica leads again it has applied everything that became
// of its appends.
func (r *replica) lead(ctx context.Context, term uint64) {
	if *rate == 0 {
		return
	}
	r.operation = max(r.operation, r.state.lastOperation())
	ticks := time.NewTicker(time.Second / time.Duration(*rate))
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
		if monotonicNs() >= r.leaseEndNs.Load() {
			continue // Until the lease is renewed, or lost.
		}
		appended, err := r.append(ctx, term, r.operation+1)
		if ctx.Err() != nil {
			return
		} else if err != nil {
			log.Printf("append %d of %s: %q", r.operation+1, *id, err)
			if !sidecar.Transient(err) && sidecar.Reason(err) != "STALE_TERM" {
				log.Fatal("it would fail so again")
			}
			sidecar.Pause(ctx, sidecar.RetryDelay(err, 0))
			continue
		}
		r.operation++
		if r.operation%*reportEvery == 0 {
			report("acknowledged", "operation", r.operation, "sequence_id", appended.LastSequenceId)
		}
	}
}

// A function of the operation alone, so that what is sent again is the same.
func (r *replica) append(ctx context.Context, term, operation uint64) (*pb.AppendResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	entry := &pb.Entry{OpType: pb.OpType_OP_TYPE_PUT_END, Key: fmt.Sprintf("%s/%d", *id, operation%ownKeys),
		Payload: fmt.Appendf(nil, "%s %d", *id, operation)}
	return r.log.Append(ctx, &pb.AppendRequest{
		Log: *logName, Entries: []*pb.Entry{entry}, WriterId: *id, OperationId: operation, Term: &term})
}

// monotonicNs is the clock of LeaseRenewed.valid_until_monotonic_ns.
func monotonicNs() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		log.Fatal(err)
	}
	return uint64(now.Nano())
}
