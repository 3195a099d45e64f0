import { statfs } from "node:fs/promises";

/** The largest record twice, since LMDB writes pages anew and grows its file, and room to spare. */
const COMMIT_BYTES_MAX = 4 * 1024 * 1024;

/** Why the next commit may fail for want of space; undefined = it has room. */
export async function refusalForWantOfSpace(directory: string): Promise<string | undefined> {
  const { bavail, bsize } = await statfs(directory);
  const freeBytes = bavail * bsize;
  if (freeBytes >= COMMIT_BYTES_MAX) return undefined;
  return `${freeBytes} bytes are free on the file system of ${directory}, and one commit may need ${COMMIT_BYTES_MAX}`;
}
