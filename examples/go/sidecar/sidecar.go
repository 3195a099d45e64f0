// Package sidecar is what every program here needs to talk to an oplogd: a connection, and what its refusals mean.
package sidecar

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "oplog-sidecar/gen/oplogv1"
)

// Connect returns at once; the connection is made when it is first used. A sidecar whose machine is gone without a word
// is noticed after 13 s.
func Connect(target string) (*grpc.ClientConn, error) {
	reconnect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(reconnect),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}))
}

// Error is the error of an answer inside a stream, as a call would have returned it.
func Error(refusal *pb.Status) error {
	return status.ErrorProto(&spb.Status{Code: refusal.Code, Message: refusal.Message, Details: refusal.Details})
}

// Reason is the case that the error table in oplog.proto names; empty if the error does not come from a sidecar.
func Reason(err error) string {
	return info(err).GetReason()
}

// LeaderEndpoint is where the log is written, as a sidecar that does not lead it says; empty if that is not known.
func LeaderEndpoint(err error) string {
	if Reason(err) != "NOT_PRIMARY" {
		return ""
	}
	return info(err).GetMetadata()["endpoint"]
}

// Transient tells whether the same request may succeed later, or elsewhere.
func Transient(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Unknown, codes.Internal, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return Reason(err) == "NOT_PRIMARY" || retryInfo(err) != nil
}

// RetryDelay is how long to wait before the same request is sent again: what the sidecar asks for, at least the given.
func RetryDelay(err error, least time.Duration) time.Duration {
	return max(retryInfo(err).GetRetryDelay().AsDuration(), least)
}

// Pause waits, unless the context ends first.
func Pause(ctx context.Context, duration time.Duration) {
	select {
	case <-time.After(duration):
	case <-ctx.Done():
	}
}

func info(err error) *errdetails.ErrorInfo {
	return detail[*errdetails.ErrorInfo](err)
}

func retryInfo(err error) *errdetails.RetryInfo {
	return detail[*errdetails.RetryInfo](err)
}

// The first detail of that type; nil if there is none.
func detail[T any](err error) (none T) {
	for _, any := range status.Convert(err).Details() {
		if found, isFound := any.(T); isFound {
			return found
		}
	}
	return none
}
