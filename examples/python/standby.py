#!/usr/bin/python3
"""Follows a log through Subscribe: in order, once, without holes, also across broken streams and restarts."""

import argparse
import hashlib
import json
import struct
import sys
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent / "gen"))
from oplog.v1 import oplog_pb2, oplog_pb2_grpc  # noqa: E402

ATTEMPTS_MAX = 60  # streams in a row without a frame
TRANSIENT = {
    grpc.StatusCode.OK,  # A stream that the sidecar ended without an error is resumed like a broken one.
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # Too many subscribers, at this moment.
}


class Standby:
    def __init__(self, flags):
        channel = grpc.insecure_channel(flags.target, options=[("grpc.max_reconnect_backoff_ms", 1000)])
        self.client = oplog_pb2_grpc.OpLogServiceStub(channel)
        self.log = flags.log
        self.until = flags.until
        self.last = flags.__dict__["from"] - 1
        self.term = 0  # of the last entry received
        self.chain = b""  # resuming with it proves that the log still has that entry
        self.log_id = b""  # resuming with it proves that it is still the same log
        self.received = 0
        self.streams = 0
        self.hash = hashlib.sha256()

    def run(self):
        attempts = 0
        while self.last < self.until:
            before = self.streams
            code, details = self.session()
            attempts = 0 if self.streams > before else attempts + 1
            if self.last >= self.until:
                break
            print(f"after {self.last}: {code.name} {details}", file=sys.stderr)
            if code not in TRANSIENT or attempts == ATTEMPTS_MAX:
                sys.exit(1)
            time.sleep(1)
        result = {"received": self.received, "hash": self.hash.hexdigest(), "resumes": self.streams - 1}
        print(json.dumps(result, separators=(",", ":")))

    def session(self):
        """One stream: takes entries until the last one wanted, or until it breaks. Returns how it ended."""
        request = oplog_pb2.SubscribeRequest(
            log=self.log,
            from_sequence_id=self.last + 1,
            previous_term=self.term,
            previous_chain=self.chain,
            log_id=self.log_id,
            consumer="python-standby",
        )
        stream = self.client.Subscribe(request)
        try:
            for number, response in enumerate(stream):
                if number == 0:
                    self.streams += 1
                frame = response.WhichOneof("frame")
                if frame == "heartbeat":
                    self.log_id = response.heartbeat.log_id or self.log_id
                elif frame == "batch":
                    self.take(response.batch)
                if self.last >= self.until:
                    stream.cancel()
                    break
        except grpc.RpcError:
            pass  # The code of the stream tells.
        return stream.code(), stream.details()

    def take(self, batch):
        self.expect(batch.first_sequence_id)
        for entry in batch.entries:
            self.expect(entry.sequence_id)
            if entry.sequence_id > self.until:
                return
            self.last, self.term = entry.sequence_id, entry.term
            self.received += 1
            self.add(entry)
        self.chain = batch.last_chain

    def expect(self, sequence_id):
        if sequence_id != self.last + 1:
            sys.exit(f"{sequence_id} where {self.last + 1} was due")

    def add(self, entry):
        key = entry.key.encode()
        self.hash.update(struct.pack(">QBI", entry.sequence_id, entry.op_type, len(key)) + key)
        self.hash.update(struct.pack(">I", len(entry.payload)) + entry.payload)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1:7450", help="address of the sidecar")
    parser.add_argument("--log", required=True, help="name of the log")
    parser.add_argument("--from", type=int, default=1, help="first sequence id wanted")
    parser.add_argument("--until", type=int, required=True, help="last sequence id wanted")
    Standby(parser.parse_args()).run()


if __name__ == "__main__":
    main()
