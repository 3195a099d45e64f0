import { create } from "@bufbuild/protobuf";
import { afterAll, expect, it } from "vitest";
import { FeedCache } from "../../src/following/feed-cache.js";
import { Codec, HeadSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { OperationWindow } from "../../src/oplog/operation-window.js";
import { EmbeddedKvStore } from "../../src/stores/embedded/embedded-kv-store.js";
import { Barriers } from "../../src/writing/barriers.js";
import { type SealContext, seal } from "../../src/writing/seal.js";
import { validated } from "../oplog/entries-support.js";
import { liveBytes } from "../support/live-memory.js";
import { makeTempDir } from "../support/temp-dir.js";

const MEBIBYTE = 1 << 20;
const directory = await makeTempDir("kept");
afterAll(() => directory.remove());

/** Of one append of one small entry each. */
function* smallRecords(count: number, window = new OperationWindow(), writerId = "") {
  let head = create(HeadSchema, { logId: new Uint8Array(16) });
  const limits = { entriesMax: 10_000, bytesMax: MEBIBYTE };
  for (let index = 1; index <= count; index++) {
    const context: SealContext = {
      ...{ head, window, barriers: new Barriers(), limits, term: 1n, codec: Codec.LZ4 },
      ...{ wallMs: 1_700_000_000_000 + index, nonce: Buffer.alloc(16) },
    };
    const item = {
      ...{
        entries: validated([{ key: `key ${index}`, opType: OpType.PUT_END, payload: Buffer.from("a small value") }]),
        writerId,
      },
      ...{ operationId: writerId === "" ? 0n : BigInt(index), contentCrc32c: (index * 2_654_435_761) >>> 0 },
      ...{ expectedSequenceId: undefined, expectedTerm: undefined },
      ...{ isAbandoned: () => false, settle: () => undefined },
    };
    const record = seal([item], context).record!;
    record.operations.enter(record);
    head = record.head;
    yield record;
  }
}

it("keeps the newest runs of a log within its bound, however small they are", async () => {
  const bytesMax = 16 * MEBIBYTE;
  const before = await liveBytes();
  const cache = new FeedCache(bytesMax);
  for (const record of smallRecords(50_000)) cache.push(record);
  const held = (await liveBytes()) - before;
  expect(cache.find(50_000n)).toBeDefined();
  expect(cache.find(1n)).toBeUndefined();
  expect(held).toBeLessThan(1.1 * bytesMax);
});

it("keeps recent changes of the embedded store within their bound, however small they are", async () => {
  const historyBytesMax = 8 * MEBIBYTE;
  const store = await EmbeddedKvStore.open({ directory: directory.path, historyBytesMax });
  const before = await liveBytes();
  const writes: Promise<unknown>[] = [];
  for (const { last, value, headValue } of smallRecords(20_000)) {
    const put = (key: string, value: Uint8Array) => ({ kind: "put", key, value }) as const;
    writes.push(store.txn({ compares: [], writes: [put(`/log/records/${last}`, value), put("/log/head", headValue)] }));
  }
  await Promise.all(writes.splice(0));
  const held = (await liveBytes()) - before;
  await store.close();
  expect(held).toBeLessThan(1.1 * historyBytesMax);
});

it("remembers an operation in less than 400 bytes", async () => {
  const operations = 30_000;
  const limits = { operationsMax: operations, operationsPerWriterMax: operations, recordBytesMax: 64 * MEBIBYTE };
  const before = await liveBytes();
  const window = new OperationWindow({ ...limits, writersMax: 1, writerIdleMsMin: 0 });
  let last = 0n;
  for (const record of smallRecords(operations, window, "writer")) last = record.last;
  const held = (await liveBytes()) - before;
  expect(window.windowFrom(last)).toBeGreaterThan(0n);
  expect(held / operations).toBeLessThan(400);
});
