import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { History } from "../support/history.js";
import { freePort, type Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { RecordingFollower, readBack } from "./recording-follower.js";
import { scaled } from "./scale.js";
import { aClientOf, anEtcd, anOplogd, put } from "./stage.js";

const LOG = "contested";
const ROUNDS = scaled(10, 50);
const APPENDS_PER_ROUND = 50;

it("lets one of two sidecars append at a time, and tells the other who leads", { timeout: 300_000 }, async () => {
  const etcd = await anEtcd();
  const history = new History();
  const rivals = await Promise.all(["left", "right"].map((id) => Rival.start(id, etcd.endpoint, history)));
  const followers = rivals.map(({ id, client }) => new RecordingFollower(client, history, LOG, `at-${id}`));

  const refusals: { readonly loser: Rival; readonly error: OplogRpcError }[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    // Both write as fast as they can until one of them has lost the log.
    const losers = await Promise.all(rivals.map((rival) => rival.appendUntilFenced(rivals)));
    for (const { rival, error } of losers) if (error !== undefined) refusals.push({ loser: rival, error });
    const fenced = losers.filter(({ error }) => error !== undefined).map(({ rival }) => rival);
    if (round > 0) expect(fenced).toHaveLength(1);
    for (const rival of fenced) await rival.oplogd.restart();
  }

  expect(refusals.length).toBeGreaterThanOrEqual(ROUNDS - 1);
  for (const { loser, error } of refusals) {
    const winner = rivals.find((rival) => rival !== loser)!;
    expect(error).toMatchObject({ code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY" });
    expect(error.metadata).toMatchObject({ primary: winner.id, endpoint: winner.oplogd.target });
    expect(BigInt(error.metadata.term!)).toBeGreaterThan(0n);
  }
  const head = await readBack(rivals[0]!.client, history, LOG);
  for (const follower of followers) {
    await follower.reaches(head);
    await follower.close();
  }
  expect(history.violations()).toEqual([]);
  expect(new Set(history.log.terms).size).toBeGreaterThanOrEqual(ROUNDS - 1);
  for (const { seen } of followers) expect(seen.hash).toBe(history.log.hash);
});

interface Fight {
  readonly rival: Rival;
  /** What it was refused with; undefined if it stayed the primary. */
  readonly error: OplogRpcError | undefined;
}

/** A sidecar and a writer that appends through it alone. */
class Rival {
  /** Appends in this round. */
  private appended = 0;
  private isFenced = false;
  private operationId = 0n;

  private constructor(
    readonly id: string,
    readonly oplogd: Oplogd,
    readonly client: OplogClient,
    private readonly history: History,
  ) {}

  static async start(id: string, etcd: string, history: History): Promise<Rival> {
    const port = await freePort();
    const oplogd = await anOplogd({ store: { etcd }, port, args: ["--sidecar-id", id] });
    return new Rival(id, oplogd, aClientOf(oplogd), history);
  }

  async appendUntilFenced(rivals: readonly Rival[]): Promise<Fight> {
    this.appended = 0;
    this.isFenced = false;
    const rival = rivals.find((each) => each !== this)!;
    // The winner goes on for a while after the loser has been refused, so that a late write would show.
    while (!rival.isFenced || this.appended < APPENDS_PER_ROUND) {
      const error = await this.append();
      if (error?.reason === "NOT_PRIMARY") {
        this.isFenced = true;
        // Whatever it tries afterwards is refused as well.
        expect(await this.append()).toMatchObject({ reason: "NOT_PRIMARY" });
        await waitFor(() => rival.isFenced || rival.appended >= APPENDS_PER_ROUND, { what: `${rival.id} to write` });
        return { rival: this, error };
      }
      if (error !== undefined) throw error;
      this.appended++;
    }
    return { rival: this, error: undefined };
  }

  private async append(): Promise<OplogRpcError | undefined> {
    const operationId = ++this.operationId;
    const entries = [put(`${this.id} ${operationId} first`), put(`${this.id} ${operationId} second`)];
    this.history.sent(this.id, operationId, entries);
    try {
      const answer = await this.client.append({ log: LOG, writerId: this.id, operationId, entries });
      this.history.acknowledged(this.id, operationId, answer);
      return undefined;
    } catch (error) {
      if (!(error instanceof OplogRpcError)) throw error;
      if (!error.mayHaveCommitted) this.history.refused(this.id, operationId);
      return error;
    }
  }
}
