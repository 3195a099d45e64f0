import { expect, it } from "vitest";
import { History } from "../support/history.js";
import { waitFor } from "../support/wait.js";
import { RecordingFollower, readBack } from "./recording-follower.js";
import { ResendingWriter } from "./resending-writer.js";
import { randomOf, SEED, scaled } from "./scale.js";
import { aClientOf, anOplogd } from "./stage.js";

const LOG = "killed";
const KILLS = scaled(6, 200);
const WRITERS = 2;
/** Between two kills, at most. */
const OPERATIONS_MAX = 400;
const RUN_MS_MAX = KILLS * 15_000 + 60_000;

it(`keeps what was acknowledged on the embedded store through ${KILLS} kills under load (seed ${SEED})`, {
  timeout: RUN_MS_MAX,
}, async () => {
  const random = randomOf(SEED);
  const oplogd = await anOplogd({});
  const history = new History();
  const follower = new RecordingFollower(aClientOf(oplogd), history, LOG, "follower");
  const writers = Array.from({ length: WRITERS }, (_, index) => {
    const plan = { writerId: `writer-${index}`, operations: Number.MAX_SAFE_INTEGER, entriesPerOperation: 2 };
    return new ResendingWriter(aClientOf(oplogd), history, { log: LOG, ...plan, operationsPerSecondMax: 500 });
  });
  const stop = new AbortController();
  const writing = Promise.all(writers.map((writer) => writer.run(stop.signal)));
  const acknowledged = () => writers.reduce((sum, writer) => sum + writer.acknowledged, 0);

  for (let kill = 0; kill < KILLS; kill++) {
    const enough = acknowledged() + 1 + Math.floor(random() * OPERATIONS_MAX);
    await waitFor(() => acknowledged() >= enough, { deadlineMs: 30_000, what: `${enough} operations` });
    // Also in the middle of the start.
    if (kill % 5 === 4) {
      const restart = oplogd.restart().catch(() => undefined);
      await waitFor(() => oplogd.hasExited === false, { what: "oplogd to run" });
      await oplogd.kill("SIGKILL");
      await restart;
    }
    await oplogd.restart();
    expect(oplogd.log).not.toContain("is damaged");
  }
  stop.abort();
  await writing;
  const head = await readBack(aClientOf(oplogd), history, LOG);
  await follower.reaches(head);
  await follower.close();
  expect(history.violations()).toEqual([]);
  expect(acknowledged()).toBeGreaterThan(KILLS);
});
