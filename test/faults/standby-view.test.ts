import { expect, it } from "vitest";
import { serverStream, unary } from "../../src/client/calls.js";
import { openChannel } from "../../src/client/channel.js";
import type { OplogClient } from "../../src/client/client.js";
import { Health, HealthCheckResponse_ServingStatus } from "../../src/gen/grpc/health/v1/health_pb.js";
import {
  type ScanStateRequestSchema,
  type ScanStateResponse,
  StandbyPhase,
  StandbyService,
} from "../../src/gen/oplog/v1/standby_pb.js";
import { hashOf, hex, Model, type Operation, put, remove, revoke } from "../standby/support.js";
import { freePort, type Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf } from "./stage.js";

const LOG = "viewed";
const DEADLINE = { deadlineMs: 10_000 };
const ROUNDS = 40;

it.each(["embedded", "etcd"] as const)(
  "a view of a log on %s is the state of the log, also after a kill and in a second sidecar",
  { timeout: 90_000 },
  async (store) => {
    const etcd = store === "etcd" ? await anEtcd() : undefined;
    const adminPort = await freePort();
    const args = ["--views", `${LOG},other`];
    const on = etcd === undefined ? {} : { store: { etcd: etcd.endpoint } };
    const oplogd = await anOplogd({ args: [...args, "--admin-listen", `127.0.0.1:${adminPort}`], ...on });
    const model = new Model();
    await appendRounds(aClientOf(oplogd), model);

    const standby = new Standby(oplogd);
    await standby.showsAll(model);
    const metrics = await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text();
    expect(metrics).toContain(`oplog_view_applied_sequence_id{log="${LOG}"} ${model.applied}`);
    expect(metrics).toContain(`oplog_view_keys{log="${LOG}"} ${model.entries.size}`);
    expect(metrics).toMatch(new RegExp(`oplog_view_bytes\\{log="${LOG}"\\} \\d{6,}`));
    expect(metrics).toContain(`oplog_view_key_order_violations_total{log="${LOG}"} ${model.violations}`);

    await oplogd.kill("SIGKILL");
    await oplogd.restart();
    await standby.showsAll(model);
    await appendRounds(aClientOf(oplogd), model);
    await standby.showsAll(model);
    if (etcd !== undefined) await new Standby(await anOplogd({ args, ...on })).showsAll(model);
    await oplogd.kill("SIGTERM");
    expect(oplogd.exitCode, oplogd.log).toBe(0);
  },
);

it("tells which logs have no view, and which keys no value", { timeout: 30_000 }, async () => {
  const oplogd = await anOplogd({ args: ["--views", LOG] });
  const standby = new Standby(oplogd);
  const failure = await failureOf(standby.getEntry("a", "another"));
  expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", reason: "NO_VIEW", metadata: { log: "another" } });
  for (const key of ["", "k".repeat(4097)]) {
    expect(await failureOf(standby.getEntry(key))).toMatchObject({
      code: "INVALID_ARGUMENT",
      metadata: { field: "key" },
    });
  }
  expect((await standby.getEntry("nothing")).entry).toBeUndefined();
  const frames = await standby.scan();
  expect(frames.map(({ frame }) => frame.case)).toEqual(["end"]);
  expect(await standby.health()).toMatchObject({ status: HealthCheckResponse_ServingStatus.SERVING });
});

it("a client reads its own writes at a standby, or is told how far that is", { timeout: 60_000 }, async () => {
  const store = { etcd: (await anEtcd()).endpoint };
  const leader = aClientOf(await anOplogd({ store }));
  const client = aClientOf(await anOplogd({ store, args: ["--views", LOG] }));
  let last = 0n;
  for (let round = 0; round < 50; round++) {
    ({ lastSequenceId: last } = await leader.append({ log: LOG, entries: [put("mine", `${round}`)] }));
    const { entry, appliedSequenceId } = await client.getEntry({ log: LOG, key: "mine", minSequenceId: last });
    expect(Buffer.from(entry!.payload).toString()).toBe(`${round}`);
    expect(appliedSequenceId).toBeGreaterThanOrEqual(last);
  }
  ({ lastSequenceId: last } = await leader.append({ log: LOG, entries: [put("another")] }));
  const frames = client.scanState({ log: LOG, minSequenceId: last });
  for await (const { frame } of frames) if (frame.case === "end") expect(frame.value.startSequenceId).toBe(last);
  const ahead = { log: LOG, minSequenceId: last + 1n };
  const behind = {
    code: "UNAVAILABLE",
    reason: "VIEW_BEHIND",
    metadata: { applied: `${last}`, wanted: `${last + 1n}` },
  };
  expect(await failureOf(client.getEntry({ ...ahead, key: "mine" }))).toMatchObject(behind);
  expect(await failureOf(client.scanState(ahead).next())).toMatchObject(behind);
});

/** Puts, removals, revocations and violations, in appends of several sizes. */
async function appendRounds(client: OplogClient, model: Model): Promise<void> {
  for (let round = 0; round < ROUNDS; round++) {
    const operations: Operation[] = [];
    for (let index = 0; index < 1 + (round % 9) * 20; index++) {
      const key = `key ${(round * 31 + index * 7) % 500}`;
      const kind = (round + index) % 11;
      if (kind === 0) operations.push(remove(key));
      else if (kind === 1) operations.push(revoke(key));
      else if (kind === 2) operations.push(put(key, `${round} ${index}`, BigInt(index % 5)));
      else operations.push(put(key, `${round} ${index}`.repeat(1 + (index % 40))));
    }
    await client.append({ log: LOG, entries: operations });
    for (const operation of operations) model.apply(operation);
  }
}

class Standby {
  private readonly channel;

  constructor({ target }: Oplogd) {
    this.channel = openChannel(target);
    atEnd(() => this.channel.close());
  }

  getEntry(key: string, log = LOG) {
    return unary(this.channel, StandbyService.method.getEntry, { log, key }, DEADLINE);
  }

  health() {
    return unary(this.channel, Health.method.check, { service: StandbyService.typeName }, DEADLINE);
  }

  async scan(): Promise<ScanStateResponse[]> {
    const frames: ScanStateResponse[] = [];
    const stream = serverStream<typeof ScanStateRequestSchema, ScanStateResponse>(
      this.channel,
      StandbyService.method.scanState,
      { log: LOG },
      {},
    );
    for await (const frame of stream) frames.push(frame);
    return frames;
  }

  async showsAll(model: Model): Promise<void> {
    const status = (await waitFor(
      async () => {
        const seen = await this.hash().catch(() => undefined);
        return seen?.phase === StandbyPhase.FOLLOWING && Number(seen.appliedSequenceId) >= model.applied
          ? seen
          : undefined;
      },
      { what: "the view to follow" },
    ))!;
    expect(hex(status.stateHash)).toBe(model.hash);
    expect(status).toMatchObject({
      appliedSequenceId: BigInt(model.applied),
      headSequenceId: BigInt(model.applied),
      keys: BigInt(model.entries.size),
      keyOrderViolations: BigInt(model.violations),
    });
    const frames = (await this.scan()).map(({ frame }) => frame);
    const entries = frames.flatMap((frame) => (frame.case === "entries" ? frame.value.entries : []));
    const plain = entries.map(({ key, payload, sequenceId }) => ({
      key,
      payload: hex(payload),
      sequenceId: Number(sequenceId),
    }));
    expect(hashOf(plain)).toBe(model.hash);
    const end = frames.at(-1);
    expect(end).toMatchObject({
      case: "end",
      value: { startSequenceId: BigInt(model.applied), endSequenceId: BigInt(model.applied) },
    });
    expect(end?.case === "end" && hex(end.value.stateHash)).toBe(model.hash);
    for (const [key, expected] of [...model.entries].slice(0, 20)) {
      const { entry, appliedSequenceId } = await this.getEntry(key);
      expect(appliedSequenceId).toBe(BigInt(model.applied));
      expect(hex(entry!.payload)).toBe(expected.payload);
      expect(entry).toMatchObject({
        key,
        sequenceId: BigInt(expected.sequenceId),
        keySequenceId: expected.keySequenceId,
      });
    }
  }

  private hash() {
    return unary(this.channel, StandbyService.method.getStateHash, { log: LOG }, DEADLINE);
  }
}
