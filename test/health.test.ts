import { expect, it } from "vitest";
import { pollStore } from "../src/health.js";
import { systemClock } from "../src/oplog/clock.js";
import { silentLogger } from "../src/oplog/logger.js";
import { EmbeddedKvStore } from "../src/stores/embedded/embedded-kv-store.js";
import { MonitoredKvStore } from "../src/stores/monitored-kv-store.js";
import { liveBytes } from "./support/live-memory.js";
import { makeTempDir } from "./support/temp-dir.js";
import { waitFor } from "./support/wait.js";

const TURNS = 1_500;
/** Far below what one kept promise takes. */
const TURN_BYTES_MAX = 60;

it("leaves nothing behind when the store is asked how it is, for as long as the process lives", async () => {
  const directory = await makeTempDir("poll");
  const observer = { operation: () => undefined, reachable: () => undefined };
  let turns = 0;
  const count = (operation: string) => {
    if (operation === "status") turns++;
  };
  const counting = { ...observer, operation: count };
  const embedded = await EmbeddedKvStore.open({ directory: directory.path });
  const store = new MonitoredKvStore(embedded, systemClock, silentLogger, counting, () => undefined);
  const stop = new AbortController();
  const poll = { store, keyPrefix: "/oplog", clock: systemClock, everyMs: 0, onAnswer: () => undefined };
  const polling = pollStore(poll, stop.signal);
  const reached = (count: number) => waitFor(() => turns >= count, { deadlineMs: 60_000, what: `${count} turns` });
  await reached(TURNS);
  // What is kept for ever grows each time; what is made once does not.
  const grownPerTurn: number[] = [];
  for (let measured = 0; measured < 3; measured++) {
    const before = await liveBytes();
    const turnsBefore = turns;
    await reached(turnsBefore + TURNS / 2);
    grownPerTurn.push(((await liveBytes()) - before) / (turns - turnsBefore));
  }
  stop.abort();
  await polling;
  await store.close();
  await directory.remove();
  expect(Math.min(...grownPerTurn)).toBeLessThan(TURN_BYTES_MAX);
});
