import { rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { type EtcdBinary, type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { etcdRelease } from "../support/etcd-releases.js";
import { freePort, type Oplogd } from "../support/oplogd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { Candidate, machineMs } from "./candidate.js";
import { scaled } from "./scale.js";
import { aClientOf, anOplogd, atEnd, put } from "./stage.js";

const LOG = "restored";
const BUMP = ["--bump-revision", "1000000000", "--mark-compacted"];
const NOTICED_MS_MAX = 30_000;

interface Drill {
  readonly binary: EtcdBinary;
  /** The restored cluster has the id of the one before. */
  readonly isSameId: boolean;
  readonly isBumped: boolean;
  readonly sidecars: "running" | "stopped";
  readonly mode: "auto" | "elected";
}

const isFull = scaled(0, 1) === 1;
const system = (await etcdBinaries()).find(({ version }) => version.startsWith("3.4"));
const binaries = isFull ? [system, await etcdRelease("3.6.16"), await etcdRelease("3.7.3")] : [system];
const drills: Drill[] = binaries
  .filter((binary) => binary !== undefined)
  .flatMap((binary) =>
    [true, false].flatMap((isSameId) =>
      (binary.restoreTool === undefined ? [false] : [false, true]).flatMap((isBumped) =>
        (["running", "stopped"] as const).flatMap((sidecars) =>
          (isFull ? (["auto", "elected"] as const) : (["auto"] as const)).map(
            (mode): Drill => ({ binary, isSameId, isBumped, sidecars, mode }),
          ),
        ),
      ),
    ),
  );

it.each(
  drills.map((drill) => {
    const { binary, isSameId, isBumped, sidecars, mode } = drill;
    const id = isSameId ? "the same id" : "another id";
    const title = `etcd ${binary.version} with ${id}${isBumped ? " and raised revisions" : ""}, sidecars ${sidecars}, ${mode}`;
    return [title, drill] as const;
  }),
)(
  "a restored backup is noticed by everyone who has seen what is lost: %s",
  { timeout: 180_000 },
  async (title, drill) => {
    const stage = await Stage.set(drill);
    await stage.append(10);
    const backup = await stage.backup();
    await stage.append(10);
    await stage.hasSeen(20n);

    const tells = !(drill.sidecars === "stopped" && drill.isSameId);
    const restoredMs = await stage.restore(backup);
    const noticed: string[] = [];
    const note = (who: string, how: string) =>
      noticed.push(`${who}: ${how} after ${Math.round(machineMs() - restoredMs)} ms`);
    if (tells) {
      await Promise.all(
        stage.sidecars.map(async ({ name, readyz }) =>
          note(name, (await readyz(503, "oplogctl adopt")).slice(27, 130)),
        ),
      );
      const refusal = await stage.appendRefusal();
      expect(refusal).toMatch(/^(STORE_REPLACED|HISTORY_DIVERGED|NOT_PRIMARY|STORE_UNREACHABLE)$/);
      note("append", refusal);
      for (const { client } of stage.sidecars) await client.adopt();
    }
    await Promise.all(stage.sidecars.map(({ readyz }) => readyz(200)));
    await stage.lead();
    // Past all that is lost: the ids and, without a change of leader, the terms repeat.
    await stage.append(15);
    note("subscriber", await stage.witness.refusal());
    expect(stage.witness.reason).toBe("HISTORY_DIVERGED");
    expect(stage.witness.last).toBe(20n);
    await stage.viewReaches(25n);
    process.stdout.write(`${title}\n  ${noticed.join("\n  ")}\n`);
  },
);

it("an embedded data directory that was put back from a copy is noticed by the subscriber that comes again", async () => {
  const { path } = await makeTempDir("embedded-restore");
  atEnd(() => rm(path, { recursive: true, force: true }));
  const [dataDir, copy] = [join(path, "data"), join(path, "copy")];
  const { cp } = await import("node:fs/promises");
  const oplogd = await anOplogd({ store: { dataDir } });
  const client = aClientOf(oplogd);
  const append = async (count: number) => {
    for (let each = 0; each < count; each++) await client.append({ log: LOG, entries: [put(`${each}`)] });
  };
  const witness = new Witness(client);
  await append(10);
  await oplogd.kill("SIGTERM");
  await cp(dataDir, copy, { recursive: true, filter: (source) => !source.includes("owner-") });
  await oplogd.restart();
  await append(10);
  await waitFor(() => witness.last === 20n, { what: "20 entries" });
  await oplogd.kill("SIGTERM");
  await rm(dataDir, { recursive: true, force: true });
  await cp(copy, dataDir, { recursive: true });
  await oplogd.restart();
  await append(15);
  expect(await witness.refusal()).toBe("HISTORY_DIVERGED");
  expect(witness.last).toBe(20n);
});

/** A client that follows, through all breaks, until it is refused. */
class Witness {
  last = 0n;
  reason: string | undefined;

  constructor(client: OplogClient) {
    const gone = new AbortController();
    atEnd(() => gone.abort());
    void this.follow(client, gone.signal);
  }

  async refusal(): Promise<string> {
    return (
      (await waitFor(() => this.reason, { deadlineMs: NOTICED_MS_MAX, what: "the subscriber to be refused" })) ?? ""
    );
  }

  private async follow(client: OplogClient, signal: AbortSignal): Promise<void> {
    try {
      for await (const event of client.follow({ log: LOG }, { signal })) {
        if (event.case === "batch") this.last = event.value.lastSequenceId;
      }
    } catch (error) {
      this.reason = error instanceof OplogRpcError ? error.reason || error.code : String(error);
    }
  }
}

interface StagedSidecar {
  readonly name: string;
  readonly oplogd: Oplogd;
  readonly client: OplogClient;
  /** Resolves to the body once it answers so. */
  readonly readyz: (status: number, text?: string) => Promise<string>;
}

async function aSidecar(name: string, etcd: EtcdServer): Promise<StagedSidecar> {
  const admin = await freePort();
  const oplogd = await anOplogd({
    store: { etcd: etcd.endpoint },
    args: ["--sidecar-id", name, "--admin-listen", `127.0.0.1:${admin}`, ...(name === "b" ? ["--views", LOG] : [])],
  });
  const readyz = async (status: number, text = "") => {
    const answer = async () => {
      const response = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => undefined);
      const body = response?.status === status ? await response.text() : undefined;
      return body?.includes(text) ? body : undefined;
    };
    return (await waitFor(answer, { deadlineMs: NOTICED_MS_MAX, what: `/readyz of ${name} to be ${status}` })) ?? "";
  };
  return { name, oplogd, client: aClientOf(oplogd), readyz };
}

/** A master at sidecar a; at b a view, and a subscriber. */
class Stage {
  readonly witness: Witness;
  private candidate: Candidate | undefined;
  private candidates = 0;
  private leave: () => void = () => undefined;

  private constructor(
    private readonly drill: Drill,
    private readonly etcd: EtcdServer,
    readonly sidecars: readonly [StagedSidecar, StagedSidecar],
  ) {
    this.witness = new Witness(sidecars[1].client);
  }

  static async set(drill: Drill): Promise<Stage> {
    const etcd = await startEtcd({ binary: drill.binary });
    atEnd(() => etcd.stop());
    const stage = new Stage(drill, etcd, [await aSidecar("a", etcd), await aSidecar("b", etcd)]);
    await stage.lead();
    return stage;
  }

  /** A master that has seen nothing yet. */
  async lead(): Promise<void> {
    if (this.drill.mode === "auto") return;
    const candidate = new Candidate(aClientOf(this.sidecars[0].oplogd), {
      log: LOG,
      id: `master-${++this.candidates}`,
      ttlMs: 2_000,
    });
    this.leave();
    const gone = new AbortController();
    this.leave = () => gone.abort();
    atEnd(this.leave);
    // It follows too, and so ends when it is told that what it has seen is lost.
    candidate.run(gone.signal).catch(() => undefined);
    await waitFor(() => candidate.isLeading, { deadlineMs: NOTICED_MS_MAX, what: "the master to lead" });
    this.candidate = candidate;
  }

  async append(count: number): Promise<void> {
    for (let each = 0; each < count; each++) await this.appendOne(`${each}`);
  }

  async appendRefusal(): Promise<string> {
    const error = await this.appendOne("refused").then(
      () => undefined,
      (failure: unknown) => failure,
    );
    if (error instanceof OplogRpcError) return error.reason || error.code;
    throw new Error(`the append was not refused: ${error}`);
  }

  async hasSeen(id: bigint): Promise<void> {
    await waitFor(() => this.witness.last === id, { what: `the subscriber to have ${id}` });
    await this.viewReaches(id);
  }

  async viewReaches(id: bigint): Promise<void> {
    const applied = async () => {
      const hash = await this.sidecars[1].client.getStateHash({ log: LOG }).catch(() => undefined);
      return hash?.appliedSequenceId === id;
    };
    await waitFor(applied, { deadlineMs: NOTICED_MS_MAX, what: `the view to have applied ${id}` });
  }

  async backup(): Promise<string> {
    const { path } = await makeTempDir("etcd-backup");
    atEnd(() => rm(path, { recursive: true, force: true }));
    await this.etcd.saveSnapshot(join(path, "backup"));
    return join(path, "backup");
  }

  /** Resolves to when etcd was back, or the sidecars if they were stopped. */
  async restore(backup: string): Promise<number> {
    const { isSameId, isBumped, sidecars } = this.drill;
    if (sidecars === "stopped") await Promise.all(this.sidecars.map(({ oplogd }) => oplogd.kill("SIGTERM")));
    const token = isSameId ? "etcd-cluster" : "restored";
    await this.etcd.restoreSnapshot(backup, { token, args: isBumped ? BUMP : [] });
    if (sidecars === "stopped") await Promise.all(this.sidecars.map(({ oplogd }) => oplogd.restart()));
    return machineMs();
  }

  private appendOne(text: string) {
    const term = this.candidate?.ledTerm;
    const entries = [put(text)];
    return this.sidecars[0].client.append({ log: LOG, entries, ...(term === undefined ? {} : { term }) });
  }
}
