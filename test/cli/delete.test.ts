import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect } from "../../src/client/client.js";
import { startOplogd } from "../support/oplogd.js";
import { runOplogctl } from "./oplogctl-process.js";

let oplogd: Awaited<ReturnType<typeof startOplogd>>;

beforeAll(async () => {
  oplogd = await startOplogd({});
}, 30_000);
afterAll(() => oplogd?.stop());

const oplogctl = (...args: string[]) => runOplogctl(oplogd.target, args);

describe("delete-cursor", () => {
  it("removes the cursor of a consumer that is gone, and says when there is none", async () => {
    const client = connect(oplogd.target);
    try {
      await client.append({ log: "orders", entries: [{ key: "a" }].map((entry) => ({ ...entry, opType: 1 })) });
      await client.updateCursor({ log: "orders", consumer: "pod-1", appliedSequenceId: 1n });
    } finally {
      client.close();
    }
    expect(await oplogctl("delete-cursor", "orders", "pod-1")).toMatchObject({
      exitCode: 0,
      stdout: "the cursor of pod-1 is removed\n",
    });
    const again = await oplogctl("delete-cursor", "orders", "pod-1");
    expect(again).toMatchObject({ exitCode: 69, stdout: "" });
    expect(again.stderr).toContain('has no cursor "pod-1"');
  });
});

describe("delete-log", () => {
  it("deletes the log that is meant, and no other one", async () => {
    const client = connect(oplogd.target);
    let logId: string;
    try {
      await client.append({ log: "old", entries: [{ key: "a", opType: 1 }] });
      logId = Buffer.from((await client.getStatus({ log: "old" })).log!.logId).toString("hex");
    } finally {
      client.close();
    }
    const other = await oplogctl("delete-log", "old", "0".repeat(32));
    expect(other).toMatchObject({ exitCode: 73, stdout: "" });
    expect(other.stderr).toContain(`this log is ${logId}`);
    expect(await oplogctl("delete-log", "old", "abc")).toMatchObject({ exitCode: 2 });
    expect(await oplogctl("delete-log", "old", logId)).toMatchObject({
      exitCode: 0,
      stdout: 'log "old" is deleted\n',
    });
    expect(await oplogctl("delete-log", "old", logId)).toMatchObject({ exitCode: 0 });
    expect(await oplogctl("status", "old")).toMatchObject({ exitCode: 69 });
  });
});
