import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import type { ServerDuplexStream } from "@grpc/grpc-js";
import { afterEach, expect, it, vi } from "vitest";
import type { Campaign } from "../../src/client/campaign.js";
import { connect } from "../../src/client/client.js";
import { CampaignRequestSchema, CampaignResponseSchema, LostReason } from "../../src/gen/oplog/v1/leadership_pb.js";
import { waitFor, within } from "../support/wait.js";
import { rpcError, ScriptedSidecar } from "./scripted-sidecar.js";

type Call = ServerDuplexStream<Buffer, unknown>;
type Say = NonNullable<MessageInitShape<typeof CampaignResponseSchema>["message"]>;

const open: Array<{ stop(): void }> = [];
afterEach(() => {
  for (const each of open.splice(0).reverse()) each.stop();
});

/** The sidecar's side of one campaign. */
class Side {
  readonly heard: ReturnType<typeof decode>[] = [];
  hasEnded = false;
  isCancelled = false;
  private call: Call | undefined;

  readonly handle = (call: Call): void => {
    this.call = call;
    call.on("data", (bytes: Buffer) => this.heard.push(decode(bytes)));
    call.on("end", () => {
      this.hasEnded = true;
    });
    call.on("cancelled", () => {
      this.isCancelled = true;
    });
  };

  say(message: Say): void {
    this.call!.write(create(CampaignResponseSchema, { message }));
  }

  end(): void {
    this.call!.end();
  }

  fail(error: ReturnType<typeof rpcError>): void {
    this.call!.emit("error", error);
  }

  async hears(count: number): Promise<void> {
    await waitFor(() => this.heard.length >= count, { what: `message ${count} of the candidate` });
  }
}

function decode(bytes: Buffer) {
  return fromBinary(CampaignRequestSchema, bytes).message;
}

async function campaigning(options?: Parameters<ReturnType<typeof connect>["campaign"]>[1]) {
  const side = new Side();
  const sidecar = await ScriptedSidecar.start({ Campaign: side.handle });
  const client = connect(sidecar.target);
  open.push(sidecar, { stop: () => client.close() });
  const campaign = client.campaign({ log: "l", id: "a" }, options);
  return { side, campaign };
}

async function cases(campaign: Campaign): Promise<unknown[]> {
  const seen: unknown[] = [];
  for await (const { message } of campaign) seen.push(message.case);
  return seen;
}

it("introduces the candidate, answers Prepare, and yields the messages in order to the end of the stream", async () => {
  const { side, campaign } = await campaigning();
  await side.hears(1);
  expect(side.heard[0]).toMatchObject({ case: "candidate", value: { log: "l", id: "a" } });
  side.say({ case: "prepare", value: { term: 2n, finalSequenceId: 7n } });
  const messages = campaign[Symbol.asyncIterator]();
  expect((await messages.next()).value).toMatchObject({ message: { case: "prepare", value: { finalSequenceId: 7n } } });
  campaign.ready(7n, new Uint8Array([1]));
  await side.hears(2);
  expect(side.heard[1]).toMatchObject({ case: "ready", value: { appliedSequenceId: 7n } });
  side.say({ case: "leading", value: { term: 2n } });
  side.say({ case: "lost", value: { reason: LostReason.FENCED } });
  side.end();
  expect(await cases(campaign)).toEqual(["leading", "lost"]);
});

it("resigning ends this side alone, and what the sidecar still says arrives", async () => {
  const { side, campaign } = await campaigning();
  const seen = cases(campaign);
  await side.hears(1);
  campaign.resign();
  await waitFor(() => side.hasEnded, { what: "the end of the candidate's side" });
  expect(side.isCancelled).toBe(false);
  side.say({ case: "lost", value: { reason: LostReason.RESIGNED } });
  side.end();
  expect(await seen).toEqual(["lost"]);
});

it("leaving the loop, cancel() and the signal break the stream off", async () => {
  const abort = new AbortController();
  const left = await campaigning();
  const cancelled = await campaigning();
  const aborted = await campaigning({ signal: abort.signal });
  for (const { side } of [left, cancelled, aborted]) await side.hears(1);

  left.side.say({ case: "waiting", value: {} });
  for await (const _ of left.campaign) break;
  cancelled.campaign.cancel();
  abort.abort();

  for (const { side } of [left, cancelled, aborted]) {
    await waitFor(() => side.isCancelled, { what: "the stream to be broken off" });
  }
  await expect(cases(cancelled.campaign)).rejects.toMatchObject({ code: "CANCELLED" });
  await expect(cases(aborted.campaign)).rejects.toMatchObject({ code: "CANCELLED" });
});

it("throws the refusal of a candidate", async () => {
  const { side, campaign } = await campaigning();
  const seen = cases(campaign);
  seen.catch(() => undefined);
  await side.hears(1);
  side.fail(rpcError({ code: "ALREADY_EXISTS", reason: "CANDIDATE_EXISTS", message: "no", metadata: { id: "a" } }));
  await expect(seen).rejects.toMatchObject({
    code: "ALREADY_EXISTS",
    reason: "CANDIDATE_EXISTS",
    metadata: { id: "a" },
  });
});

it("says nothing more once the stream has ended", async () => {
  const { side, campaign } = await campaigning();
  await side.hears(1);
  side.end();
  expect(await cases(campaign)).toEqual([]);
  campaign.ready(1n);
  campaign.alive();
  campaign.resign();
  campaign.cancel();
});

it("sends Alive by itself while the event loop turns, and stops with the stream", async () => {
  const { side, campaign } = await campaigning({ aliveEveryMs: 20 });
  await side.hears(4);
  expect(side.heard.slice(1).every((message) => message.case === "alive")).toBe(true);
  const clear = vi.spyOn(globalThis, "clearInterval");
  side.end();
  expect(await within(cases(campaign), { what: "the campaign to end" })).toEqual([]);
  await waitFor(() => clear.mock.calls.length > 0, { what: "the timer to be stopped" });
  clear.mockRestore();
});

it("leaves signs of life out while the sidecar takes nothing, so that they do not pile up", async () => {
  const sidecar = await ScriptedSidecar.start({ Campaign: () => {} });
  const client = connect(sidecar.target);
  open.push(sidecar, { stop: () => client.close() });
  const campaign = client.campaign({ log: "l", id: "a" });
  const write = vi.spyOn((campaign as unknown as { call: { write(message: unknown): boolean } }).call, "write");
  for (let index = 0; index < 10_000; index++) campaign.alive();
  expect(write.mock.calls.length).toBeLessThan(100);
  campaign.cancel();
});
