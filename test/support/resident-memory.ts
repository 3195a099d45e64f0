import { readFileSync } from "node:fs";
import type { Oplogd } from "./oplogd.js";
import { waitFor } from "./wait.js";

export const MEBIBYTE = 1 << 20;
const FLAT_MS = 3000;

/** The most that it has had, once it has come to so much and has not grown for a while. */
export async function peakOf(oplogd: Oplogd, atLeast: number, deadlineMs: number): Promise<number> {
  let peak = 0;
  let grownMs = performance.now();
  await waitFor(
    () => {
      const now = residentBytes(oplogd);
      if (now > peak + MEBIBYTE) grownMs = performance.now();
      peak = Math.max(peak, now);
      return peak > atLeast && performance.now() - grownMs > FLAT_MS;
    },
    { deadlineMs, what: "memory to stop growing" },
  );
  return peak;
}

/** RssAnon: what the process has allocated. */
export function residentBytes({ pid }: Oplogd): number {
  const kibibytes = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  if (kibibytes === undefined) throw new Error(`/proc/${pid}/status has no RssAnon`);
  return Number(kibibytes) * 1024;
}

export function inMiB(bytes: number): string {
  return `${Math.round(bytes / MEBIBYTE)} MiB`;
}
