import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";
import { RenewObjectLeasesRequestSchema } from "../../src/gen/oplog/v1/standby_pb.js";
import { renewObjectLeases } from "../../src/grpc/lease-renewal.js";
import type { Log } from "../../src/log/log.js";
import { LEASE_MS_MAX } from "../../src/oplog/entries.js";
import type { OplogError } from "../../src/oplog/errors.js";
import { NotPrimaryError } from "../../src/oplog/leadership-errors.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { View } from "../../src/standby/view.js";
import { aLog } from "../following/followers.js";
import { anAppend, appendedOf, inTime, testClock, until, useFakeTime } from "../log/support.js";
import { put } from "../standby/support.js";

useFakeTime();

const DEFAULT_MS = 60_000;
const TERM = 1n;
const NEVER = new AbortController().signal;

interface Asked {
  readonly keys?: string[];
  readonly leaseMs?: number;
  readonly term?: bigint;
}

async function aLeasedView(objectLeaseDefaultMs: number | undefined) {
  const log = aLog(new MemoryKvStore({ clock: testClock }));
  const observer = {
    applied: () => undefined,
    keyOrderViolated: () => undefined,
    diverged: () => undefined,
    phase: () => undefined,
  };
  const parts = { openLog: () => log, clock: testClock, logger: silentLogger, observer, headPollMs: 1000 };
  const view = new View({ ...parts, objectLeaseDefaultMs }, "log");
  void view.run(NEVER);
  await append(log, "a");
  await until(() => view.state.applied === 1, "the view to have applied what there is");
  const renew = ({ keys = ["a"], leaseMs, term }: Asked = {}, leadingTerm = async () => TERM) => {
    const lease = leaseMs === undefined ? {} : { lease: durationFromMs(leaseMs) };
    const request = create(RenewObjectLeasesRequestSchema, { log: "log", keys, ...lease, ...(term ? { term } : {}) });
    return renewObjectLeases(view, request, leadingTerm, NEVER);
  };
  return {
    log,
    view,
    renew,
    leftMs: (key: string) => view.leases.endOf(view.state.leaseOf(Buffer.from(key))!) - testClock.wallMs(),
  };
}

async function append(log: Log, key: string): Promise<void> {
  const item = anAppend()
    .with({ entries: [put(key)] })
    .build();
  (await inTime(log.primary.lead())).append(item);
  appendedOf(await inTime(item.outcome));
}

const refusalOf = (renewal: Promise<unknown>) =>
  inTime(
    renewal.then(
      () => undefined,
      (error: OplogError) => error,
    ),
  );

describe("RenewObjectLeases", () => {
  it("grants what was asked for, the default otherwise, and tells what is not held", async () => {
    const { renew, leftMs } = await aLeasedView(DEFAULT_MS);
    expect(await inTime(renew({ keys: ["a", "b"] }))).toEqual(["b"]);
    expect(leftMs("a")).toBe(DEFAULT_MS);
    expect(await inTime(renew({ leaseMs: LEASE_MS_MAX, term: TERM }))).toEqual([]);
    expect(leftMs("a")).toBe(LEASE_MS_MAX);
  });

  it("knows of everything that has been acknowledged before", async () => {
    const { log, renew } = await aLeasedView(DEFAULT_MS);
    await append(log, "new");
    expect(await inTime(renew({ keys: ["new"] }))).toEqual([]);
  });

  it("does not guess when the view does not keep up", async () => {
    const { view, renew } = await aLeasedView(DEFAULT_MS);
    view.awaitApplied = async () => false;
    expect(await refusalOf(renew())).toMatchObject({ code: "UNAVAILABLE", reason: "VIEW_BEHIND", retryAfterMs: 1000 });
  });

  it("is refused where objects are not leased", async () => {
    const { renew } = await aLeasedView(undefined);
    expect(await refusalOf(renew())).toMatchObject({ code: "FAILED_PRECONDITION", reason: "NO_OBJECT_LEASES" });
  });

  it("is refused where nobody leads, also when that ends while it waits", async () => {
    const { renew, leftMs } = await aLeasedView(DEFAULT_MS);
    let asked = 0;
    const leadUntil = (count: number) => async () => {
      if (asked++ === count) throw new NotPrimaryError("other", "other:1", 2n);
      return TERM;
    };
    for (const count of [0, 1]) {
      asked = 0;
      expect(await refusalOf(renew({ leaseMs: LEASE_MS_MAX }, leadUntil(count)))).toBeInstanceOf(NotPrimaryError);
    }
    expect(leftMs("a")).toBeLessThanOrEqual(DEFAULT_MS);
  });

  it.each<[what: string, asked: Asked, refusal: object]>([
    ["another term", { term: 2n }, { reason: "STALE_TERM", facts: { yours: 2n, current: TERM } }],
    ["no keys", { keys: [] }, { reason: "INVALID_ARGUMENT", facts: { field: "keys", received: 0 } }],
    [
      "10,001 keys",
      { keys: Array<string>(10_001).fill("a") },
      { facts: { field: "keys", received: 10_001, limit: 10_000 } },
    ],
    ["an empty key", { keys: ["a", ""] }, { facts: { field: "keys[1]", received: 0 } }],
    [
      "a key of 4,097 bytes",
      { keys: ["k".repeat(4097)] },
      { facts: { field: "keys[0]", received: 4097, limit: 4096 } },
    ],
    ["a lease of 0", { leaseMs: 0 }, { facts: { field: "lease", received: 0 } }],
    ["more than 10 years", { leaseMs: LEASE_MS_MAX + 1 }, { facts: { field: "lease", limit: LEASE_MS_MAX } }],
  ])("refuses %s", async (_, asked, refusal) => {
    const { renew } = await aLeasedView(DEFAULT_MS);
    expect(await refusalOf(renew(asked))).toMatchObject(refusal);
  });
});
