import { afterEach } from "vitest";
import { connect, type OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { type FaultProxy, startFaultProxy } from "../support/fault-proxy.js";
import { type Oplogd, type OplogdOptions, startOplogd } from "../support/oplogd.js";

/** What a scenario has set up is taken down after it, the last first. */
const takeDown: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of takeDown.splice(0).reverse()) await each();
});

export function atEnd(work: () => unknown): void {
  takeDown.push(work);
}

/** The newest etcd there is. */
export async function anEtcd(args: readonly string[] = []): Promise<EtcdServer> {
  const etcd = await startEtcd({ binary: (await etcdBinaries()).at(-1)!, args });
  atEnd(() => etcd.stop());
  return etcd;
}

export async function anOplogd(options: OplogdOptions): Promise<Oplogd> {
  const oplogd = await startOplogd(options);
  atEnd(() => oplogd.stop());
  return oplogd;
}

export async function aFaultProxy(targetPort: number): Promise<FaultProxy> {
  const proxy = await startFaultProxy(targetPort);
  atEnd(() => proxy.close());
  return proxy;
}

export function aClientOf({ target }: Pick<Oplogd, "target">): OplogClient {
  const client = connect(target);
  atEnd(() => client.close());
  return client;
}

/** An entry of its own; `padding` makes it larger. */
export function put(text: string, padding = "") {
  return { opType: OpType.PUT_END, key: `key of ${text}`, payload: Buffer.from(text + padding) };
}

/** The OplogRpcError that a call ends with. */
export async function failureOf(call: Promise<unknown>): Promise<OplogRpcError> {
  const outcome = await call.then(
    (response) => new Error(`succeeded with ${JSON.stringify(response, (_, value) => String(value))}`),
    (error: unknown) => error,
  );
  if (outcome instanceof OplogRpcError) return outcome;
  throw outcome;
}

export async function revisionOf(etcd: EtcdServer): Promise<bigint> {
  const answer = (await etcd.ask("/v3/kv/range", { key: Buffer.from("/").toString("base64") })) as {
    header: { revision: string };
  };
  return BigInt(answer.header.revision);
}
