import { rmSync } from "node:fs";
import { join } from "node:path";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { expect, it } from "vitest";
import type { Campaign } from "../../src/client/campaign.js";
import type { OplogClient } from "../../src/client/client.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor, within } from "../support/wait.js";
import { aClientOf, anOplogd, atEnd, failureOf } from "./stage.js";

const LOG = "lost";
const TTL_MS = 3_000;

/** A candidate, what it is told, and how it ends. */
class Told {
  readonly kinds: string[] = [];
  readonly end: Promise<unknown>;

  constructor(campaign: Campaign) {
    this.end = (async () => {
      for await (const { message } of campaign) {
        this.kinds.push(message.case!);
        if (message.case === "prepare") campaign.ready(message.value.finalSequenceId);
      }
    })();
    this.end.catch(() => undefined);
  }

  async hears(kind: string): Promise<void> {
    await waitFor(() => this.kinds.includes(kind), { what: `the candidate to be told ${kind}` });
  }
}

it("whoever leads, waits or comes is told that the store is lost, before a lease has run out", {
  timeout: 60_000,
}, async () => {
  const temp = await makeTempDir("lost-store");
  atEnd(() => temp.remove());
  const dataDir = join(temp.path, "data");
  const client: OplogClient = aClientOf(await anOplogd({ store: { dataDir } }));
  const stand = (id: string) => new Told(client.campaign({ log: LOG, id, ttl: durationFromMs(TTL_MS) }));
  const leader = stand("leader");
  await leader.hears("leading");
  const waiting = stand("waiting");
  await waiting.hears("waiting");

  rmSync(dataDir, { recursive: true });
  const ends = [leader.end, waiting.end].map((end) => failureOf(end));
  const failures = await within(Promise.all(ends), { deadlineMs: TTL_MS, what: "both to be told" });
  for (const { code, reason, message } of failures) {
    expect({ code, reason }).toEqual({ code: "DATA_LOSS", reason: "STORE_DAMAGED" });
    expect(message).toContain(dataDir);
  }
  expect([...leader.kinds, ...waiting.kinds]).not.toContain("lost");
  const { code } = await failureOf(stand("late").end);
  expect(code).toBe("DATA_LOSS");
});
