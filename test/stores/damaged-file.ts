import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { KvStore, Write } from "../../src/oplog/kv-store.js";
import { EmbeddedKvStore } from "../../src/stores/embedded/embedded-kv-store.js";

/** What a data directory of some size and past holds, and ways to damage its file. */

const PAGE = 4096;

export const dataFile = (directory: string): string => join(directory, "data.mdb");

/** Keys small and large, under leases and not, some of them deleted again, so that there are free pages too. */
export async function fillStore(directory: string, random: () => number, rounds = 20): Promise<void> {
  const store = await EmbeddedKvStore.open({ directory });
  const { leaseId } = await store.grantLease(3_600_000);
  const draw = (below: number) => Math.floor(random() * below);
  for (let round = 0; round < rounds; round++) {
    const put = (index: number): Write => ({
      kind: "put",
      key: `/kept/${round}/${index}/${"k".repeat(draw(60))}`,
      value: Buffer.alloc(draw(draw(4) === 0 ? 20_000 : 1_500), `${round}.${index}.`),
      ...(draw(10) === 0 ? { leaseId } : {}),
    });
    const writes = Array.from({ length: 12 }, (_, index) => put(index));
    const gone: Write = { kind: "put", key: `/gone/${round}`, value: Buffer.alloc(draw(30_000), "gone") };
    await store.txn({
      compares: [],
      writes: [...writes, gone, { kind: "put", key: "/head", value: Buffer.from(`${round}`) }],
    });
    if (round % 4 === 3)
      await store.txn({ compares: [], writes: [{ kind: "delete-range", from: "/gone/", to: "/gone0" }] });
  }
  // Longer than any run of free pages, so that the end of the file is in use.
  await store.txn({ compares: [], writes: [{ kind: "put", key: "/last", value: Buffer.alloc(400_000, "last") }] });
  await store.close();
}

/** Every key with all that belongs to it; of those that cannot be read, why not. */
export async function readStore(
  store: KvStore,
): Promise<{ readonly pairs: Map<string, string>; readonly refused: Map<string, Error> }> {
  const pairs = new Map<string, string>();
  const refused = new Map<string, Error>();
  for (let from = "/"; ; ) {
    const page = await store.page({ bytesMax: 1_000_000, from, to: "0", limit: 1_000, keysOnly: true });
    for (const { key } of page.pairs) {
      try {
        const { pair } = await store.get(key);
        pairs.set(key, `${pair?.modRevision} ${pair?.leaseId} ${pair?.value.toString("latin1")}`);
      } catch (error) {
        refused.set(key, error as Error);
      }
    }
    if (!page.more) return { pairs, refused };
    from = `${page.pairs.at(-1)!.key}\0`;
  }
}

export function flipBit(file: Buffer, bitAt: number): void {
  file[Math.floor(bitAt / 8)]! ^= 1 << (bitAt % 8);
}

/** The pages that the newer meta page leads to first: without them nothing can be found. */
function rootPages(file: Buffer): number[] {
  const txnId = (page: number) => Number(file.readBigUInt64LE(page * PAGE + 24 + 128));
  const meta = (txnId(0) > txnId(1) ? 0 : 1) * PAGE + 24;
  return [64, 112].map((at) => Number(file.readBigUInt64LE(meta + at)));
}

/** Each takes the bytes of a sound file, and gives those of a damaged one. */
export const DAMAGES: Readonly<Record<string, (file: Buffer) => Buffer>> = {
  "cut off by one page": (file) => file.subarray(0, file.length - PAGE),
  "cut off by half": (file) => file.subarray(0, Math.floor(file.length / 2 / PAGE) * PAGE),
  "cut off within the meta pages": (file) => file.subarray(0, PAGE),
  emptied: () => Buffer.alloc(0),
  "without its first meta page": (file) => zeroed(file, 0, 1),
  "without its second meta page": (file) => zeroed(file, 1, 1),
  "without both meta pages": (file) => zeroed(file, 0, 2),
  "without the page that leads to its tables": (file) => zeroed(file, rootPages(file)[1]!, 1),
  "without the page that lists what is free": (file) => zeroed(file, rootPages(file)[0]!, 1),
  "with two pages that were swapped": (file) => {
    const [first, second] = rootPages(file);
    const swapped = Buffer.from(file);
    file.copy(swapped, first! * PAGE, second! * PAGE, (second! + 1) * PAGE);
    file.copy(swapped, second! * PAGE, first! * PAGE, (first! + 1) * PAGE);
    return swapped;
  },
  "with an older meta page that claims to be newer": (file) => {
    const older = file.readBigUInt64LE(24 + 128) < file.readBigUInt64LE(PAGE + 24 + 128) ? 0 : PAGE;
    const changed = Buffer.from(file);
    changed.writeBigUInt64LE(changed.readBigUInt64LE(older + 24 + 128) + 2n, older + 24 + 128);
    return changed;
  },
  "replaced by something else": (file) => Buffer.alloc(file.length, "something else "),
  "shifted by one byte": (file) => Buffer.concat([Buffer.from([0]), file.subarray(0, -1)]),
};

export function damage(directory: string, change: (file: Buffer) => Buffer): void {
  writeFileSync(dataFile(directory), change(readFileSync(dataFile(directory))));
}

function zeroed(file: Buffer, page: number, pages: number): Buffer {
  return Buffer.from(file).fill(0, page * PAGE, (page + pages) * PAGE);
}
