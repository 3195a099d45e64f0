import { beforeEach, describe, expect, it } from "vitest";
import { StoreUnreachableError } from "../../src/oplog/kv-store.js";
import { NotPrimaryError } from "../../src/oplog/leadership-errors.js";
import { DataLossError } from "../../src/oplog/log-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { decodeHead, decodeTerm } from "../../src/stored/decode.js";
import { claimTerm, type Ground } from "../../src/writing/claim.js";
import { anIdentity, keysOf, testClock } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

const keys = keysOf();
const BY_APPEND: Ground = { kind: "append", heldTerm: 0n };
let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
});
const storedTerm = async () => decodeTerm((await store.get(keys.term)).pair);

describe("a claim", () => {
  it("creates an empty log with an identity, and takes term 1", async () => {
    const claim = await claimTerm(store, keys, anIdentity(), BY_APPEND);
    expect(claim.term).toBe(1n);
    expect(claim.head).toMatchObject({ lastSequenceId: 0n, term: 0n });
    expect(claim.head.logId).toHaveLength(16);
    expect(await storedTerm()).toMatchObject({ term: 1n, owner: "a", endpoint: "a:7070" });
  });

  it("raises the term, and leaves the identity of the log as it is", async () => {
    const first = await claimTerm(store, keys, anIdentity("a"), BY_APPEND);
    const second = await claimTerm(store, keys, anIdentity("b"), BY_APPEND);
    expect(second.term).toBe(2n);
    expect(Buffer.from(second.head.logId).equals(first.head.logId)).toBe(true);
    expect(second.termRevision).toBeGreaterThan(first.termRevision);
  });

  it("names the revisions at which term and head stand in the store", async () => {
    const claim = await claimTerm(store, keys, anIdentity(), BY_APPEND);
    expect((await store.get(keys.term)).pair?.modRevision).toBe(claim.termRevision);
    expect((await store.get(keys.head)).pair?.modRevision).toBe(claim.headRevision);
  });

  it("by many at once gives each another term", async () => {
    const claims = await Promise.all(
      ["a", "b", "c", "d"].map((id) => claimTerm(store, keys, anIdentity(id), BY_APPEND)),
    );
    expect(claims.map(({ term }) => term).sort()).toEqual([...new Set(claims.map(({ term }) => term))].sort());
    const logIds = new Set(claims.map(({ head }) => Buffer.from(head.logId).toString("hex")));
    expect(logIds.size).toBe(1);
  });

  it("again respects a higher term of somebody else", async () => {
    const identity = anIdentity("a");
    const { term } = await claimTerm(store, keys, identity, BY_APPEND);
    await claimTerm(store, keys, anIdentity("b"), BY_APPEND);
    await expect(claimTerm(store, keys, identity, { kind: "append", heldTerm: term })).rejects.toThrow(NotPrimaryError);
    expect(await storedTerm()).toMatchObject({ term: 2n, owner: "b" });
  });

  it("again does not take a sidecar of the same id for itself", async () => {
    const identity = anIdentity("a");
    const { term } = await claimTerm(store, keys, identity, BY_APPEND);
    await claimTerm(store, keys, anIdentity("a"), BY_APPEND);
    await expect(claimTerm(store, keys, identity, { kind: "append", heldTerm: term })).rejects.toThrow(NotPrimaryError);
  });

  it("again follows a term of its own whose reply was lost", async () => {
    const identity = anIdentity("a");
    const { term } = await claimTerm(store, keys, identity, BY_APPEND);
    store.loseNextReplies(1);
    await expect(claimTerm(store, keys, identity, { kind: "append", heldTerm: term })).rejects.toThrow(
      StoreUnreachableError,
    );
    expect((await claimTerm(store, keys, identity, { kind: "append", heldTerm: term })).term).toBe(3n);
  });

  it("that is overtaken before it has seen the head claims anew", async () => {
    const headIsConfirmed = store.hangNextTxn(
      ({ writes }) => writes.length === 1 && writes[0]!.kind === "put" && writes[0]!.key === keys.head,
    );
    const slow = claimTerm(store, keys, anIdentity("a"), BY_APPEND);
    await headIsConfirmed.arrived;
    expect((await claimTerm(store, keys, anIdentity("b"), BY_APPEND)).term).toBe(2n);
    await headIsConfirmed.answer();
    expect((await slow).term).toBe(3n);
  });

  it("of a log whose head or term is no such thing says that the log is damaged", async () => {
    await claimTerm(store, keys, anIdentity(), BY_APPEND);
    for (const key of [keys.head, keys.term]) {
      const { pair } = await store.get(key);
      await store.txn({ compares: [], writes: [{ kind: "put", key, value: Buffer.from([0xff]) }] });
      await expect(claimTerm(store, keys, anIdentity(), BY_APPEND)).rejects.toThrow(DataLossError);
      await store.txn({ compares: [], writes: [{ kind: "put", key, value: pair!.value }] });
    }
    expect(decodeHead((await store.get(keys.head)).pair!).lastSequenceId).toBe(0n);
  });
});
