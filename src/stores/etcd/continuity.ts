import type { IResponseHeader, IStatusResponse } from "etcd3";
import { StoreReplacedError } from "../../oplog/kv-store.js";
import { decodeInteger } from "./wire.js";

/** A member that was killed may tell less for a moment, until it has found out again what is committed. */
const LOWER_MS_MIN = 1_000;
/**
 * What --bump-revision adds is meant to be more than was ever written: 1,000,000,000 in the documentation of etcd. So many
 * changes, on the other hand, would take etcd hours at its fastest.
 */
const RAISED_MIN = 500_000_000n;

interface Progress {
  revision: bigint;
  revisionSeenMs: number;
  raftIndex: bigint;
  raftIndexSeenMs: number;
  /** Since when its index has been lower than that. */
  lowerSinceMs: number | undefined;
}

/**
 * Whether the members that answer belong to the cluster that answered first, with its data. The id of a cluster is made
 * from its token and addresses, so a restored or emptied cluster may have the same id. But while a member keeps its data,
 * neither its revision nor its index in the raft log ever goes back; after --bump-revision the revision jumps ahead.
 */
export class Continuity {
  private readonly progress = new Map<string, Progress>();

  /** `clusterId`: in hex; undefined = that of the first answer. */
  constructor(private clusterId: string | undefined) {}

  /** In hex; undefined: nobody has answered yet. */
  get identity(): string | undefined {
    return this.clusterId;
  }

  /**
   * Throws StoreReplacedError. `sentMs`: when the call was sent, if its answer rests on all that was committed before that.
   * Answers may arrive in another order than they were given.
   */
  note(header: IResponseHeader, address: string, sentMs?: number): void {
    const found = hexOf(header.cluster_id);
    if (found === undefined) return;
    this.clusterId ??= found;
    if (found !== this.clusterId) {
      throw new StoreReplacedError(
        `etcd at ${address} belongs to cluster ${found}, this sidecar has its logs in cluster ${this.clusterId}`,
      );
    }
    if (sentMs === undefined) return;
    const member = this.of(header.member_id);
    const revision = decodeInteger(header.revision);
    if (revision < member.revision && sentMs > member.revisionSeenMs) {
      throw this.older(address, `its revision went back from ${member.revision} to ${revision}`);
    }
    this.raise(member, revision, address);
  }

  /** What a watch brings may have waited on its way, so a lower revision proves nothing. Throws StoreReplacedError. */
  noteWatch(header: IResponseHeader, address: string): void {
    this.note(header, address);
    this.raise(this.of(header.member_id), decodeInteger(header.revision), address);
  }

  /**
   * Throws StoreReplacedError. `sentMs`: when the call was sent. What was seen after that may have been written
   * after the member had answered, and proves nothing.
   */
  noteStatus({ header, raftIndex, leader }: IStatusResponse, address: string, sentMs: number): void {
    if (hexOf(header.cluster_id) === undefined) return;
    this.note(header, address);
    const member = this.of(header.member_id);
    const index = decodeInteger(raftIndex);
    const revision = decodeInteger(header.revision);
    const nowMs = performance.now();
    const isIndexLower = index < member.raftIndex && sentMs > member.raftIndexSeenMs;
    const isRevisionLower = revision < member.revision && sentMs > member.revisionSeenMs;
    if (index > member.raftIndex) {
      member.raftIndex = index;
      member.raftIndexSeenMs = nowMs;
    }
    // Without a leader a member that was killed cannot find out what is committed.
    if (!(isIndexLower || isRevisionLower) || leader === "0") {
      member.lowerSinceMs = undefined;
      return;
    }
    member.lowerSinceMs ??= nowMs;
    if (nowMs - member.lowerSinceMs < LOWER_MS_MIN) return;
    throw this.older(
      address,
      isIndexLower
        ? `the index of its raft log went back from ${member.raftIndex} to ${index}`
        : `its revision went back from ${member.revision} to ${revision}`,
    );
  }

  private raise(member: Progress, revision: bigint, address: string): void {
    if (revision <= member.revision) return;
    if (member.revision > 0n && revision - member.revision >= RAISED_MIN) {
      throw this.older(address, `its revisions were raised from ${member.revision} to ${revision}`);
    }
    member.revision = revision;
    member.revisionSeenMs = performance.now();
  }

  private older(address: string, sign: string): StoreReplacedError {
    return new StoreReplacedError(`the data of etcd at ${address} was replaced by older data: ${sign}`, {
      isOlder: true,
    });
  }

  private of(memberId: string): Progress {
    let member = this.progress.get(memberId);
    if (member === undefined) {
      member = { revision: 0n, revisionSeenMs: 0, raftIndex: 0n, raftIndexSeenMs: 0, lowerSinceMs: undefined };
      this.progress.set(memberId, member);
    }
    return member;
  }
}

/** Undefined: it tells none. */
function hexOf(clusterId: string): string | undefined {
  const id = BigInt.asUintN(64, BigInt(clusterId));
  return id === 0n ? undefined : id.toString(16);
}
