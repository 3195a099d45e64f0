import { readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { EmbeddedKvStore } from "../../src/stores/embedded/embedded-kv-store.js";
import { checkFile } from "../../src/stores/embedded/file-check.js";
import { noteClosed } from "../../src/stores/embedded/file-state.js";
import { FileDamagedError } from "../../src/stores/embedded/page-file.js";
import { randomOf } from "../faults/scale.js";
import { dataFile, flipBit, readStore } from "./damaged-file.js";

/** <data directory> <seed> <flips>: a bit flipped at a random place, again and again, and what came of it. Says the bit before it is tried. */

const [directory, seed, flips] = process.argv.slice(2);
const file = dataFile(directory!);
const sound = readFileSync(file);
const random = randomOf(Number(seed));
const open = () => EmbeddedKvStore.open({ directory: directory! });

const first = await open();
const { pairs: expected } = await readStore(first);
await first.close();

const outcomes = { wrong: [] as string[], refused: 0, valuesRefused: 0, harmless: 0 };
for (let flip = 0; flip < Number(flips); flip++) {
  // Half of them where every bit counts.
  const bitAt = Math.floor(random() * (flip % 4 === 0 ? 2 * 4096 : sound.length) * 8);
  writeSync(1, `bit ${bitAt}\n`);
  const damaged = Buffer.from(sound);
  flipBit(damaged, bitAt);
  rmSync(join(directory!, "lock.mdb"), { force: true });
  writeFileSync(file, damaged);
  await tryOut(`bit ${bitAt}`, flip % 3 === 0);
}
writeSync(1, `${JSON.stringify(outcomes)}\n`);

async function tryOut(name: string, isWrittenTo: boolean): Promise<void> {
  try {
    checkFile(file, { format: "1", readsEverything: false });
  } catch (error) {
    if (error instanceof FileDamagedError) outcomes.refused++;
    else outcomes.wrong.push(`${name}: ${error}`);
    return;
  }
  // It has been checked: the store need not do it again in a process for each.
  noteClosed(directory!);
  const store = await open();
  const { pairs, refused } = await readStore(store);
  for (const [key, value] of expected) {
    if (pairs.get(key) !== value && !refused.has(key))
      outcomes.wrong.push(`${name}: ${key} is another one, or missing`);
  }
  if (pairs.size + refused.size !== expected.size) outcomes.wrong.push(`${name}: ${pairs.size + refused.size} keys`);
  if (refused.size > 0) outcomes.valuesRefused++;
  else outcomes.harmless++;
  // Free pages are used again.
  for (let round = 0; isWrittenTo && round < 4; round++) {
    const value = Buffer.alloc(9_000, round);
    await store.txn({ compares: [], writes: [{ kind: "put", key: `/new/${round}`, value }] });
    await store.txn({
      compares: [],
      writes: [{ kind: "delete-range", from: `/kept/${round}/`, to: `/kept/${round}0` }],
    });
  }
  await store.close();
  try {
    checkFile(file, { format: "1", readsEverything: true });
  } catch (error) {
    outcomes.wrong.push(`${name}: after writing: ${error}`);
  }
}
