import { PerformanceObserver } from "node:perf_hooks";
import { setFlagsFromString } from "node:v8";
import { create, toBinary } from "@bufbuild/protobuf";
import { OpType } from "../src/gen/oplog/v1/entry_pb.js";
import { BatchSchema } from "../src/gen/oplog/v1/oplog_pb.js";
import { StandbyState } from "../src/standby/standby-state.js";

const USAGE = "npm run bench:state -- [KEYS]   memory and time of a log's state, 5,000,000 keys by default";
const PAYLOAD_BYTES = 150;
const BATCH_ENTRIES = 500;
const MEBIBYTE = 1 << 20;

/** What the state of one log takes, filled in this process in the way a view fills it. */
class Measure {
  private readonly state = new StandbyState(() => undefined);
  private readonly payload = Buffer.alloc(PAYLOAD_BYTES, 1);
  private next = 1;
  private longestGcMs = 0;

  constructor() {
    const observer = new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) this.longestGcMs = Math.max(this.longestGcMs, duration);
    });
    observer.observe({ entryTypes: ["gc"] });
  }

  /** Puts `entries` values, of the keys that `keyOf` names. */
  async put(what: string, entries: number, keyOf: (index: number) => number): Promise<void> {
    let appliedMs = 0;
    let longestMs = 0;
    this.longestGcMs = 0;
    for (let done = 0; done < entries; done += BATCH_ENTRIES) {
      const count = Math.min(BATCH_ENTRIES, entries - done);
      const batch = this.batch(count, (index) => keyOf(done + index));
      const startedMs = performance.now();
      this.state.apply(batch);
      const tookMs = performance.now() - startedMs;
      appliedMs += tookMs;
      longestMs = Math.max(longestMs, tookMs);
      if (done % 100_000 === 0) await new Promise(setImmediate);
    }
    const { rss } = process.memoryUsage();
    const keys = Number(this.state.keys);
    process.stdout.write(
      `${what.padEnd(24)}${Math.round(rss / MEBIBYTE)} MiB resident, ${Math.round(rss / keys)} bytes a key; ` +
        `${((appliedMs * 1000) / entries).toFixed(1)} µs an entry; longest batch ${longestMs.toFixed(0)} ms, ` +
        `longest garbage collection ${this.longestGcMs.toFixed(0)} ms\n`,
    );
  }

  private batch(count: number, keyOf: (index: number) => number): Buffer {
    const entries = Array.from({ length: count }, (_, index) => {
      const sequenceId = BigInt(this.next++);
      this.payload.writeBigUInt64LE(sequenceId);
      const key = `kv/block/${String(keyOf(index)).padStart(11, "0")}`;
      return {
        sequenceId,
        term: 1n,
        timestampMs: 1n,
        opType: OpType.PUT_END,
        key,
        payload: Uint8Array.from(this.payload),
      };
    });
    return Buffer.from(toBinary(BatchSchema, create(BatchSchema, { entries })));
  }
}

const keys = Number(process.argv[2] ?? 5_000_000);
if (!Number.isInteger(keys) || keys < 1) {
  process.stderr.write(`${USAGE}\n`);
  process.exit(2);
}
// As oplogd runs.
setFlagsFromString("--no-incremental-marking");
let random = 12_345;
const anyKey = () => {
  random = (Math.imul(random, 1_664_525) + 1_013_904_223) >>> 0;
  return random % keys;
};
process.stdout.write(`keys of 20 and payloads of ${PAYLOAD_BYTES} bytes, Node ${process.version}\n`);
const measure = new Measure();
await measure.put(`${keys} keys`, keys, (index) => index);
await measure.put("as many overwrites", keys, anyKey);
