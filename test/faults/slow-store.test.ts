import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { expect, it } from "vitest";
import { LogKeys } from "../../src/oplog/keys.js";
import { EtcdKvStore } from "../../src/stores/etcd/etcd-kv-store.js";
import { elapsed } from "./arena.js";
import { aCandidateAt } from "./campaign-call.js";
import { aClientOf, aFaultProxy, anEtcd, anOplogd, atEnd, put } from "./stage.js";

const LOG = "slow";
const TTL_MS = 3_000;
/** Longer than a third of the TTL: a leader that does not wait for such answers loses its lease within one. */
const ANSWER_MS = 1_200;
const SLOW_MS = 2 * TTL_MS;

it("a leader leads on while each answer of etcd takes long, and stops before its lease ends", async () => {
  const etcd = await anEtcd();
  const proxy = await aFaultProxy(etcd.port);
  const ttl = durationFromMs(TTL_MS);
  const near = new EtcdKvStore({ endpoints: [etcd.endpoint] });
  atEnd(() => near.close());
  const sidecar = await anOplogd({ store: { etcd: proxy.endpoint } });
  const client = aClientOf(sidecar);
  const leader = aCandidateAt(sidecar, { log: LOG, id: "a", ttl });
  await leader.hears("leading");
  await client.append({ log: LOG, entries: [put("first")] });
  const waiting = aCandidateAt(await anOplogd({ store: { etcd: etcd.endpoint } }), { log: LOG, id: "b", ttl });
  await waiting.hears("waiting");

  proxy.delay(ANSWER_MS / 2);
  await elapsed(SLOW_MS);
  const { term } = await client.append({ log: LOG, entries: [put("second")] });
  expect(term).toBe(leader.newest("leading")!.term);
  expect(leader.kinds).not.toContain("lost");
  expect(waiting.kinds).not.toContain("prepare");
  expect(waiting.kinds).not.toContain("leading");

  proxy.blackHole(true);
  expect(await leader.lost()).toBe("STORE_UNREACHABLE");
  const keys = new LogKeys("/oplog", LOG);
  expect((await near.get(keys.leader)).pair).toBeDefined();
  await waiting.hears("leading");
  proxy.delay(0);
  proxy.blackHole(false);
}, 60_000);
