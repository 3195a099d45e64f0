import { randomBytes } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { DAMAGES, dataFile, flipBit } from "../stores/damaged-file.js";
import { freePort, Oplogd } from "../support/oplogd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { randomOf, SEED, scaled } from "./scale.js";
import { aClientOf, atEnd, failureOf, put } from "./stage.js";

const LOG = "files";
const ENTRIES = 60;
const FLIPS = scaled(5, 200);
const COPIES = scaled(2, 10);

async function aDirectory(): Promise<string> {
  const temp = await makeTempDir("files");
  atEnd(() => temp.remove());
  return join(temp.path, "data");
}

async function start(dataDir: string, args: readonly string[] = []): Promise<Oplogd> {
  const oplogd = await Oplogd.start({ store: { dataDir }, args });
  atEnd(() => oplogd.stop());
  return oplogd;
}

async function append(client: OplogClient, from: number, to: number): Promise<void> {
  for (let id = from; id <= to; id++) {
    // Some so large that they need pages of their own.
    const payload = `entry ${id} `.repeat(id % 5 === 0 ? 3_000 : 3);
    await client.append({
      log: LOG,
      writerId: "writer",
      operationId: BigInt(id),
      entries: [put(`key ${id}`, payload)],
    });
  }
}

async function entries(client: OplogClient): Promise<string[]> {
  const seen: string[] = [];
  for (let from = 1n; ; ) {
    const page = await client.read({ log: LOG, fromSequenceId: from, maxEntries: 1_000 });
    for (const { sequenceId, key, payload } of page.entries) seen.push(`${sequenceId} ${key} ${Buffer.from(payload)}`);
    if (page.nextSequenceId > page.headSequenceId) return seen;
    from = page.nextSequenceId;
  }
}

describe("oplogd says that its files are lost, within a second, and acknowledges nothing more, after", () => {
  const LOSSES: Readonly<Record<string, (directory: string) => void>> = {
    "the directory was deleted": (directory) => rmSync(directory, { recursive: true }),
    "the directory was renamed": (directory) => renameSync(directory, `${directory}-moved`),
    "the directory was replaced": (directory) => {
      renameSync(directory, `${directory}-moved`);
      mkdirSync(directory);
    },
    "the file was replaced": (directory) => {
      cpSync(dataFile(directory), `${directory}-copy`);
      renameSync(`${directory}-copy`, dataFile(directory));
    },
  };
  for (const [what, lose] of Object.entries(LOSSES)) {
    it(what, { timeout: 120_000 }, async () => {
      const directory = await aDirectory();
      const adminPort = await freePort();
      const oplogd = await start(directory, ["--admin-listen", `127.0.0.1:${adminPort}`]);
      const client = aClientOf(oplogd);
      await append(client, 1, 10);
      const before = await entries(client);
      const readiness = () => fetch(`http://127.0.0.1:${adminPort}/readyz`);
      await waitFor(async () => (await readiness()).status === 200, { what: "oplogd to be ready" });

      lose(directory);
      const lostMs = performance.now();
      await waitFor(async () => (await readiness()).status === 503, { deadlineMs: 5_000, what: "/readyz to say it" });
      expect(performance.now() - lostMs).toBeLessThan(1_000);
      expect(await (await readiness()).text()).toContain(dataFile(directory));
      for (let attempt = 0; attempt < 2; attempt++) {
        const { code, reason, message } = await failureOf(append(client, 11, 11));
        expect({ code, reason }).toEqual({ code: "DATA_LOSS", reason: "STORE_DAMAGED" });
        expect(message).toContain(dataFile(directory));
      }
      expect(await entries(client)).toEqual(before);
      await oplogd.kill("SIGTERM");
      expect(oplogd.exitCode).toBe(0);
    });
  }
});

it("a file that is cut off while oplogd runs is named, by it or by the next one, and never served", {
  timeout: 120_000,
}, async () => {
  const directory = await aDirectory();
  const oplogd = await start(directory);
  await append(aClientOf(oplogd), 1, ENTRIES);
  truncateSync(dataFile(directory), 5 * 4096);
  // Whether it notices first or is ended by its next read depends on the moment.
  await entries(aClientOf(oplogd)).catch(() => undefined);
  await oplogd.kill("SIGKILL");
  await expect(start(directory)).rejects.toThrow(`data directory ${directory} is damaged`);
});

describe("a damaged file is refused with a message, or serves what was written and refuses the rest", () => {
  let made: { readonly sound: Buffer; readonly expected: readonly string[] } | undefined;

  /** As a process leaves it that was killed. */
  async function aSoundFile() {
    if (made !== undefined) return made;
    const directory = await aDirectory();
    const oplogd = await start(directory);
    const client = aClientOf(oplogd);
    await append(client, 1, ENTRIES);
    // Longer than any run of free pages, so that the end of the file is in use.
    await client.append({ log: LOG, entries: [put("last", randomBytes(200_000).toString("hex"))] });
    const expected = await entries(client);
    await oplogd.kill("SIGKILL");
    made = { sound: readFileSync(dataFile(directory)), expected };
    return made;
  }

  /** How an oplogd ends that starts on this file; what it serves must be what was written. */
  async function outcomeOf(file: Buffer, expected: unknown): Promise<string> {
    const directory = await aDirectory();
    mkdirSync(directory);
    writeFileSync(join(directory, "state.json"), "{}");
    writeFileSync(dataFile(directory), file);
    let oplogd: Oplogd;
    try {
      oplogd = await start(directory);
    } catch (error) {
      expect(String(error)).toMatch(/^Error: oplogd ended with 1:/);
      expect(String(error)).toContain(`data directory ${directory} is damaged: data.mdb: `);
      expect(String(error)).toContain("oplogctl verify");
      return "refused";
    }
    const client = aClientOf(oplogd);
    let outcome = "served";
    try {
      expect(await entries(client)).toEqual(expected);
      await client.append({ log: LOG, entries: [put("after the start")] });
    } catch (error) {
      if (!(error instanceof OplogRpcError)) throw error;
      expect({ code: error.code, message: error.message }).toEqual({
        code: "DATA_LOSS",
        message: expect.stringContaining(directory),
      });
      outcome = "refused a value";
    }
    await oplogd.kill("SIGTERM");
    expect(oplogd.exitCode, oplogd.log).toBe(0);
    return outcome;
  }

  for (const [what, change] of Object.entries(DAMAGES)) {
    it(what, { timeout: 120_000 }, async () => {
      const { sound, expected } = await aSoundFile();
      expect(await outcomeOf(change(sound), expected)).toBe("refused");
    });
  }

  it(`with one bit flipped, at ${FLIPS} random places (seed ${SEED})`, {
    timeout: 60_000 + FLIPS * 15_000,
  }, async () => {
    const { sound, expected } = await aSoundFile();
    const random = randomOf(SEED);
    const outcomes: Record<string, number> = {};
    for (let flip = 0; flip < FLIPS; flip++) {
      const file = Buffer.from(sound);
      const bitAt = Math.floor(random() * file.length * 8);
      flipBit(file, bitAt);
      const outcome = await outcomeOf(file, expected).catch((error: unknown) => {
        throw new Error(`bit ${bitAt}`, { cause: error });
      });
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    }
    console.log(`of ${FLIPS} flipped bits:`, outcomes);
    expect(Object.values(outcomes).reduce((sum, count) => sum + count, 0)).toBe(FLIPS);
    const file = Buffer.from(sound);
    for (let flip = 0; flip < 200; flip++) flipBit(file, Math.floor(random() * file.length * 8));
    console.log("200 bits at once:", await outcomeOf(file, expected));
  });

  it("copied with cp while it is in use", { timeout: 120_000 }, async () => {
    const oplogd = await start(await aDirectory());
    const client = aClientOf(oplogd);
    let isOver = false;
    await append(client, 1, 1);
    const appending = (async () => {
      for (let id = 2; !isOver; id++) await append(client, id, id);
    })();
    const files: Buffer[] = [];
    while (files.length < COPIES) {
      const grown = (await entries(client)).length + 20;
      await waitFor(async () => (await entries(client)).length >= grown, { what: "more entries" });
      files.push(readFileSync(dataFile(oplogd.dataDir)));
    }
    isOver = true;
    await appending;
    const all = await entries(client);
    for (const file of files) {
      // What it serves is the log up to some entry.
      await outcomeOf(
        file,
        expect.toSatisfy((seen: string[]) => seen.every((entry, index) => entry === all[index])),
      );
    }
  });
});
