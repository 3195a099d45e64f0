// A replicated map, as a master process keeps it: follows the log of its own sidecar, stands for its leadership, and
// appends while it leads. Prints one line of JSON for each thing that happens. SIGTERM gives the leadership up.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	pb "oplog-sidecar/gen/oplogv1"
	"oplog-sidecar/sidecar"
)

var (
	target      = flag.String("target", "127.0.0.1:7450", "address of the sidecar on the same machine")
	logName     = flag.String("log", "", "name of the log")
	id          = flag.String("id", "", "name of this replica, unique among those of the log")
	endpoint    = flag.String("endpoint", "", "where others are to append while this one leads; empty = the address of its sidecar")
	ttlMs       = flag.Int64("ttl-ms", 5000, "how long the leadership outlives this machine")
	rate        = flag.Int64("rate", 100, "appends per second while it leads; 0 = none")
	reportEvery = flag.Uint64("report-every", 100, "acknowledged appends between two lines")
)

const retryPause = 200 * time.Millisecond

type replica struct {
	log        pb.OpLogServiceClient
	leadership pb.LeadershipServiceClient
	state      *state
	leaseEndNs atomic.Uint64 // on CLOCK_MONOTONIC; see LeaseRenewed
	operation  uint64        // the newest own append that has been acknowledged
}

func main() {
	flag.Parse()
	connection, err := sidecar.Connect(*target)
	if err != nil {
		log.Fatal(err)
	}
	r := &replica{log: pb.NewOpLogServiceClient(connection), leadership: pb.NewLeadershipServiceClient(connection), state: newState(*id)}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { r.follow(ctx) })
	work.Go(func() { r.campaign(ctx) })
	work.Wait()
	report("stopped", "acknowledged", r.operation)
}

// Follows the log for good: a stream that breaks is resumed at the next entry.
func (r *replica) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.subscription(ctx)
		if ctx.Err() == nil && !sidecar.Transient(err) {
			log.Fatal(err)
		}
		sidecar.Pause(ctx, retryPause)
	}
}

func (r *replica) subscription(ctx context.Context) error {
	applied, term, chain, logID := r.state.position()
	stream, err := r.log.Subscribe(ctx, &pb.SubscribeRequest{
		Log: *logName, Start: &pb.SubscribeRequest_FromSequenceId{FromSequenceId: applied + 1},
		PreviousTerm: term, PreviousChain: chain, LogId: logID, Consumer: *id})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return eofIsUnavailable(err)
		}
		if heartbeat := response.GetHeartbeat(); heartbeat != nil {
			r.state.identify(heartbeat.LogId)
		}
		if batch := response.GetBatch(); batch != nil {
			r.state.apply(batch)
		}
	}
}

// report prints names and values by turns.
func report(event string, facts ...any) {
	line := fmt.Sprintf("{\"event\":%q", event)
	for i := 0; i < len(facts); i += 2 {
		value, _ := json.Marshal(facts[i+1])
		line += fmt.Sprintf(",%q:%s", facts[i], value)
	}
	fmt.Println(line + "}")
}
