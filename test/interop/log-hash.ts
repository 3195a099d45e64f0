import { createHash } from "node:crypto";
import type { OplogClient } from "../../src/client/client.js";

/** The hash that the standbys of examples/ compute (examples/README.md defines it), over one Subscribe call. */
export async function logHash(client: OplogClient, log: string, until: bigint): Promise<string> {
  const hash = createHash("sha256");
  let last = 0n;
  const frames = client.subscribe({ log, start: { case: "fromSequenceId", value: 1n } });
  for await (const { frame } of frames) {
    if (frame.case !== "batch") continue;
    if (frame.value.firstSequenceId !== last + 1n) throw new Error(`a batch starts at ${frame.value.firstSequenceId}`);
    for (const { sequenceId, opType, key, payload } of frame.value.entries) {
      if (sequenceId !== last + 1n) throw new Error(`entry ${sequenceId} where ${last + 1n} was due`);
      last = sequenceId;
      const keyBytes = Buffer.from(key);
      const numbers = Buffer.alloc(13);
      numbers.writeBigUInt64BE(sequenceId, 0);
      numbers.writeUInt8(opType, 8);
      numbers.writeUInt32BE(keyBytes.length, 9);
      const payloadBytes = Buffer.alloc(4);
      payloadBytes.writeUInt32BE(payload.length);
      hash.update(numbers).update(keyBytes).update(payloadBytes).update(payload);
      if (last === until) return hash.digest("hex");
    }
  }
  throw new Error(`the stream has ended at ${last}`);
}
