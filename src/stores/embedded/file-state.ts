import { closeSync, existsSync, fsyncSync, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { DATA_FILE } from "./file-names.js";

const STATE_FILE = "state.json";

/** Which file it is and that nothing has been written to it since: the change time cannot be set back. */
type Stamp = Readonly<Record<"dev" | "ino" | "size" | "mtimeNs" | "ctimeNs", string>>;

interface State {
  /** As the last process that had the directory left the file; absent while one has it, or when it was killed. */
  readonly closed?: Stamp;
}

/** Whether the file can be opened as it is: whoever closed it last has left it whole, and nobody has touched it since. */
export function isAsItWasClosed(directory: string): boolean {
  const closed = readState(directory)?.closed;
  if (closed === undefined) return false;
  const now = stampOf(directory);
  return (Object.keys(now) as (keyof Stamp)[]).every((name) => closed[name] === now[name]);
}

/** Whether a store has been open in this directory before. */
export function wasUsed(directory: string): boolean {
  return existsSync(join(directory, STATE_FILE));
}

/** Before the first write of a process. */
export function noteOpen(directory: string): void {
  writeState(directory, {});
}

/** After the last. */
export function noteClosed(directory: string): void {
  writeState(directory, { closed: stampOf(directory) });
}

function stampOf(directory: string): Stamp {
  const { dev, ino, size, mtimeNs, ctimeNs } = statSync(join(directory, DATA_FILE), { bigint: true });
  const texts = Object.entries({ dev, ino, size, mtimeNs, ctimeNs }).map(([name, value]) => [name, String(value)]);
  return Object.fromEntries(texts);
}

function readState(directory: string): State | undefined {
  const path = join(directory, STATE_FILE);
  try {
    // Reading something else may never end.
    return statSync(path).isFile() ? JSON.parse(readFileSync(path, "utf8")) : undefined;
  } catch {
    // Missing, or half written by a process that was killed: then nothing is known.
    return undefined;
  }
}

function writeState(directory: string, state: State): void {
  const fd = openSync(join(directory, STATE_FILE), "w", 0o600);
  try {
    writeSync(fd, `${JSON.stringify(state)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
