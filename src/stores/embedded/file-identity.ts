import { statSync } from "node:fs";
import { join, resolve } from "node:path";
import { DATA_FILE, LOCK_FILE } from "./file-names.js";

interface Known {
  readonly path: string;
  readonly dev: number;
  readonly ino: number;
}

export interface FileProblem {
  readonly text: string;
  /** What this process has open is as it was. */
  readonly isReadable: boolean;
}

/**
 * Whether the files that this process has open still have their names. A process can go on reading and writing a file that
 * was deleted, renamed or replaced, and loses all of that when it ends.
 *
 * LMDB keeps its files open, so the number of an inode is not given to another file meanwhile.
 */
export class FileIdentity {
  private readonly data: Known;
  private readonly lock: Known;
  private largestBytes: number;

  /** `path`: the data directory as it was named, which may lead elsewhere by now. */
  constructor(path: string) {
    // Not relative to a working directory that may itself be moved.
    const directory = resolve(path);
    this.data = known(join(directory, DATA_FILE));
    this.lock = known(join(directory, LOCK_FILE));
    this.largestBytes = statSync(this.data.path).size;
  }

  /** What has become of the files; undefined: nothing. Costs two stat calls, about 2 µs. */
  problem(): FileProblem | undefined {
    try {
      return this.problemOfData() ?? problemOf(this.lock, statSync(this.lock.path));
    } catch (error) {
      const { code, path, message } = error as NodeJS.ErrnoException;
      const isGone = code === "ENOENT" || code === "ENOTDIR";
      const text = isGone
        ? `${path} is gone: it was deleted or moved while in use`
        : `${path} cannot be found: ${message}`;
      return { text, isReadable: true };
    }
  }

  private problemOfData(): FileProblem | undefined {
    const { path } = this.data;
    const found = statSync(path);
    const problem = problemOf(this.data, found);
    if (problem !== undefined) return problem;
    // LMDB never makes its file smaller.
    if (found.size < this.largestBytes) {
      const text = `${path} was cut off while in use, from ${this.largestBytes} to ${found.size} bytes`;
      return { text, isReadable: false };
    }
    this.largestBytes = found.size;
    return undefined;
  }
}

function known(path: string): Known {
  const { dev, ino } = statSync(path);
  return { path, dev, ino };
}

function problemOf({ path, dev, ino }: Known, found: Pick<Known, "dev" | "ino">): FileProblem | undefined {
  if (found.dev === dev && found.ino === ino) return undefined;
  return { text: `${path} is another file now: it was replaced while in use`, isReadable: true };
}
