import { mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { aClientOf, anOplogd, atEnd, put } from "../faults/stage.js";
import { freePort, startOplogd } from "../support/oplogd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";

const NOTICED_MS = 5_000;

async function aDirectory(): Promise<string> {
  const directory = await makeTempDir("socket");
  atEnd(() => directory.remove());
  return directory.path;
}

async function servingAt(path: string) {
  const admin = await freePort();
  const oplogd = await anOplogd({ args: ["--listen", `unix://${path}`, "--admin-listen", `127.0.0.1:${admin}`] });
  return { oplogd, readyz: () => fetch(`http://127.0.0.1:${admin}/readyz`) };
}

const append = (path: string) =>
  aClientOf({ target: `unix://${path}` }).append({ log: "orders", entries: [put("x")] }, { deadlineMs: 2_000 });
const answersAt = (path: string) =>
  append(path).then(
    () => true,
    () => false,
  );

async function refusalOf(path: string): Promise<string> {
  const failure = await startOplogd({ args: ["--listen", `unix://${path}`] }).then(
    async (oplogd) => {
      await oplogd.stop();
      return new Error("it started");
    },
    (error: Error) => error,
  );
  return failure.message;
}

describe("a unix socket", { timeout: 60_000 }, () => {
  it("is put back when somebody removes it", async () => {
    const path = join(await aDirectory(), "oplog.sock");
    const { oplogd } = await servingAt(path);
    await append(path);
    expect((await stat(path)).mode & 0o777).toBe(0o660);
    await rm(path);
    await waitFor(() => answersAt(path), { deadlineMs: NOTICED_MS, what: "the socket to be there again" });
    expect(oplogd.log).toContain("socket_restored");
    expect((await stat(path)).mode & 0o777).toBe(0o660);
    await oplogd.kill("SIGTERM");
    await expect(stat(path)).rejects.toThrow(/ENOENT/);
  });

  it("that another process has taken is left to it, and readiness tells", async () => {
    const path = join(await aDirectory(), "oplog.sock");
    const { oplogd, readyz } = await servingAt(path);
    const other = createServer().listen(`${path}.other`);
    atEnd(() => new Promise((resolve) => other.close(resolve)));
    await waitFor(async () => (await stat(`${path}.other`).catch(() => undefined)) !== undefined, { what: "a rival" });
    await rename(`${path}.other`, path);
    const theirs = await stat(path);
    await waitFor(async () => (await readyz()).status === 503, { deadlineMs: NOTICED_MS, what: "readiness to fall" });
    const { reasons } = (await (await readyz()).json()) as { reasons: string[] };
    expect(reasons).toEqual([`unix://${path} is not served: another process serves this socket`]);
    await oplogd.kill("SIGTERM");
    expect((await stat(path)).ino).toBe(theirs.ino);
  });

  it("is not there while its directory is not, and readiness tells", async () => {
    const directory = join(await aDirectory(), "run");
    await mkdir(directory);
    const path = join(directory, "oplog.sock");
    const { readyz } = await servingAt(path);
    await rm(directory, { recursive: true });
    await waitFor(async () => (await readyz()).status === 503, { deadlineMs: NOTICED_MS, what: "readiness to fall" });
    expect(await (await readyz()).text()).toContain(`its directory, ${directory}, does not exist`);
    await mkdir(directory);
    await waitFor(() => answersAt(path), { deadlineMs: NOTICED_MS, what: "the socket to be there again" });
    expect((await readyz()).status).toBe(200);
  });

  it("that is served is refused to others, and goes on to be served", async () => {
    const path = join(await aDirectory(), "oplog.sock");
    await servingAt(path);
    expect(await refusalOf(path)).toContain(`cannot listen on unix://${path}: another process serves this socket`);
    expect(await answersAt(path)).toBe(true);
  });

  it("of a process that was killed is taken over", async () => {
    const path = join(await aDirectory(), "oplog.sock");
    const { oplogd } = await servingAt(path);
    await oplogd.kill("SIGKILL");
    await servingAt(path);
    expect(await answersAt(path)).toBe(true);
  });

  it("does not take the place of a file", async () => {
    const path = join(await aDirectory(), "file");
    await writeFile(path, "");
    expect(await refusalOf(path)).toContain("there is a file of that name that is no socket");
  });

  it("in a directory that is missing is refused with the name of the directory", async () => {
    const path = join(await aDirectory(), "missing", "oplog.sock");
    expect(await refusalOf(path)).toContain(`its directory, ${join(path, "..")}, does not exist`);
  });
});
