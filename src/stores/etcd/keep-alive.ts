import type { ClientDuplexStream, ServiceError } from "@grpc/grpc-js";
import type { ILeaseKeepAliveRequest, ILeaseKeepAliveResponse } from "etcd3";
import { type Lease, LeaseNotFoundError, StoreUnreachableError } from "../../oplog/kv-store.js";
import type { Cluster } from "./cluster.js";
import { Deadline } from "./deadline.js";
import { unanswered } from "./failures.js";
import { decodeInteger } from "./wire.js";

/** The part of its deadline after which a keepalive is late. */
const LATE_SHARE = 1 / 3;

/**
 * One keepalive on a stream of its own: asked, answered, ended, or over at the deadline. One that is late is still waited
 * for, but its member is held to have failed, so that the next one can go elsewhere.
 */
export async function keepLeaseAlive(cluster: Cluster, leaseId: bigint, deadlineMs: number): Promise<Lease> {
  const deadline = new Deadline(deadlineMs);
  const { member, stream, inquire } = await cluster.stream("Lease", deadline, ({ stub, metadata }) => {
    const started = stub.leaseKeepAlive(metadata, { deadline: deadline.wallMs() });
    started.write({ ID: leaseId.toString() });
    return started;
  });
  const inquiry = inquire((failure) => stream.destroy(failure));
  const late = setTimeout(
    () => cluster.failed(member, unanswered("a keepalive is late"), inquiry.isMemberWell),
    deadlineMs * LATE_SHARE,
  );
  let answer: ILeaseKeepAliveResponse | undefined;
  try {
    answer = await firstAnswer(stream);
  } catch (failure) {
    // A healthy member may have passed it on to a leader of etcd that does not answer; no other member would do better.
    throw cluster.failed(member, failure as ServiceError, inquiry.isMemberWell);
  } finally {
    clearTimeout(late);
    inquiry.end();
    stream.cancel();
  }
  cluster.answered(member);
  if (answer === undefined) throw new StoreUnreachableError(`etcd at ${member.address} ended the keepalive unanswered`);
  const seconds = decodeInteger(answer.TTL);
  if (seconds <= 0n) throw new LeaseNotFoundError(`lease ${leaseId} has expired or was revoked`);
  return { leaseId, ttlMs: Number(seconds) * 1000 };
}

type KeepAliveStream = ClientDuplexStream<ILeaseKeepAliveRequest, ILeaseKeepAliveResponse>;

/** Undefined when the stream ends first. */
function firstAnswer(stream: KeepAliveStream): Promise<ILeaseKeepAliveResponse | undefined> {
  return new Promise((resolve, reject) => {
    stream.once("data", resolve);
    stream.once("end", () => resolve(undefined));
    stream.once("error", reject);
  });
}
