package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log"
	"math"
	"strconv"
	"strings"
	"sync"

	pb "oplog-sidecar/gen/oplogv1"
)

// state is the last value of each key, as StandbyService in standby.proto defines it, at exactly the entry `applied`.
type state struct {
	own           string // prefix of the payloads that this replica writes; the number of the append follows
	mutex         sync.Mutex
	values        map[string]value
	hash          [4]uint64 // see GetStateHashResponse
	applied, term uint64
	chain         []byte        // of the entry applied: who hands it back is told if the log has another history by now
	logID         []byte        // resuming with it proves that it is still the same log
	operation     uint64        // the newest append of this replica that has been applied
	changed       chan struct{} // closed when an entry has been applied, then another takes its place
}

type value struct {
	payload                   []byte
	sequenceID, keySequenceID uint64
}

func newState(id string) *state {
	return &state{own: id + " ", values: map[string]value{}, changed: make(chan struct{})}
}

func (s *state) position() (applied, term uint64, chain, logID []byte) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.applied, s.term, s.chain, s.logID
}

func (s *state) identify(logID []byte) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(logID) > 0 {
		s.logID = logID
	}
}

func (s *state) lastOperation() uint64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.operation
}

// reach waits until the entry has been applied, and tells how far the state is then, its hash and the chain of the last
// entry. It fails only if the context ends first.
func (s *state) reach(ctx context.Context, sequenceID uint64) (applied uint64, hash, chain []byte, err error) {
	for {
		s.mutex.Lock()
		applied, chain, changed := s.applied, s.chain, s.changed
		for _, lane := range s.hash {
			hash = binary.LittleEndian.AppendUint64(hash, lane)
		}
		s.mutex.Unlock()
		if applied >= sequenceID {
			return applied, hash, chain, nil
		}
		hash = nil
		select {
		case <-changed:
		case <-ctx.Done():
			return applied, nil, nil, ctx.Err()
		}
	}
}

func (s *state) apply(batch *pb.Batch) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, entry := range batch.Entries {
		if entry.SequenceId != s.applied+1 {
			log.Fatalf("entry %d where %d was due", entry.SequenceId, s.applied+1)
		}
		if entry.OpType != pb.OpType_OP_TYPE_EVENT {
			s.applyToKey(entry)
		}
		s.applied, s.term = entry.SequenceId, entry.Term
	}
	s.chain = batch.LastChain
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *state) applyToKey(entry *pb.Entry) {
	held, isHeld := s.values[entry.Key]
	// Without one an entry is in order by its place in the log, also after the highest number there is.
	keySequenceID := held.keySequenceID
	if entry.KeySequenceId != nil {
		keySequenceID = *entry.KeySequenceId
	} else if keySequenceID < math.MaxUint64 {
		keySequenceID++
	}
	switch {
	case isHeld && entry.KeySequenceId != nil && keySequenceID <= held.keySequenceID:
		log.Printf("entry %d violates the order of key %q, which is dropped", entry.SequenceId, entry.Key)
		s.drop(entry.Key)
	case entry.OpType == pb.OpType_OP_TYPE_PUT_END:
		s.drop(entry.Key)
		s.values[entry.Key] = value{entry.Payload, entry.SequenceId, keySequenceID}
		s.count(entry.Key, 1)
		if operation, isOwn := strings.CutPrefix(string(entry.Payload), s.own); isOwn {
			s.operation, _ = strconv.ParseUint(operation, 10, 64)
		}
	case entry.OpType == pb.OpType_OP_TYPE_REMOVE:
		s.drop(entry.Key)
	case isHeld: // PUT_REVOKE
		s.values[entry.Key] = value{held.payload, held.sequenceID, keySequenceID}
	}
}

func (s *state) drop(key string) {
	if _, isHeld := s.values[key]; isHeld {
		s.count(key, ^uint64(0))
		delete(s.values, key)
	}
}

// count adds the digest of a key to the hash; times ^0, which is -1 modulo 2^64, it takes it away.
func (s *state) count(key string, times uint64) {
	held := s.values[key]
	part := binary.LittleEndian.AppendUint64(nil, held.sequenceID)
	part = binary.LittleEndian.AppendUint32(part, uint32(len(key)))
	digest := sha256.Sum256(append(append(part, key...), held.payload...))
	for lane := range s.hash {
		s.hash[lane] += times * binary.LittleEndian.Uint64(digest[8*lane:])
	}
}
