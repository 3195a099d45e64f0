import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface TempDir {
  readonly path: string;
  remove(): Promise<void>;
}

export async function makeTempDir(purpose = "test"): Promise<TempDir> {
  const path = await mkdtemp(join(tmpdir(), `oplog-${purpose}-`));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}
