import { create } from "@bufbuild/protobuf";
import { expect, it } from "vitest";
import { GetLeaderRequestSchema, LeadershipMode } from "../../src/gen/oplog/v1/leadership_pb.js";
import { LeadershipService } from "../../src/grpc/leadership-service.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { inTime, keysOf, testClock, useFakeTime } from "../log/support.js";
import { Side } from "../promotion/side.js";

useFakeTime();

function getLeader({ logs, campaigns }: Side) {
  const draining = new AbortController().signal;
  const service = new LeadershipService({ logs, campaigns, draining });
  return inTime(service.getLeader(create(GetLeaderRequestSchema, { log: "log" })));
}

it("GetLeader tells, at the sidecar of the leader, that it prepares itself, and from when on it leads", async () => {
  const store = new MemoryKvStore({ clock: testClock });
  const [here, there] = [new Side("a", store), new Side("b", store)];
  expect(await getLeader(here)).toMatchObject({ preparing: false, vacant: false });
  const candidate = here.enter("a", { needsHandshake: true });
  await candidate.hears("prepare");
  const leader = { id: "a", endpoint: "a:7070", term: 1n };
  const held = { leader, mode: LeadershipMode.ELECTED, vacant: false, candidates: [{ id: "a", endpoint: "a:7070" }] };
  expect(await getLeader(here)).toMatchObject({ ...held, preparing: true });
  expect(await getLeader(there)).toMatchObject({ ...held, preparing: false });
  candidate.ready(0n);
  await candidate.hears("leading");
  expect(await getLeader(here)).toMatchObject({ ...held, preparing: false });
  await candidate.resign();
  expect(await getLeader(here)).toMatchObject({ vacant: true, preparing: false, candidates: [] });
});

it("GetLeader names a candidate whose entry is damaged beside the others, and a candidate of that id replaces it", async () => {
  const store = new MemoryKvStore({ clock: testClock });
  const side = new Side("a", store);
  await side.leader("l");
  const key = keysOf().candidate("w");
  await store.txn({ compares: [], writes: [{ kind: "put", key, value: Buffer.from([0xff]) }] });
  expect((await getLeader(side)).candidates).toEqual([
    { id: "l", endpoint: "a:7070" },
    { id: "w", problem: expect.stringContaining(`${key} is damaged`) },
  ]);
  await side.standby("w");
  expect((await getLeader(side)).candidates).toEqual([
    { id: "l", endpoint: "a:7070" },
    { id: "w", endpoint: "a:7070" },
  ]);
});

it("GetLeader tells nobody to be preparing where the candidate has given up before it was ready", async () => {
  const side = new Side("a", new MemoryKvStore({ clock: testClock }));
  const candidate = side.enter("a", { needsHandshake: true });
  await candidate.hears("prepare");
  await candidate.resign();
  expect(await getLeader(side)).toMatchObject({ vacant: true, preparing: false });
});
