import { expect, it } from "vitest";
import { wholeLogOf } from "../../demo/operations.js";
import { ReplicaProcess } from "../../demo/replica-process.js";
import { loadTrace } from "../../demo/trace.js";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import type { Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { inRandomOrder, randomOf, SEED, scaled } from "./scale.js";
import { aClientOf, anEtcd, anOplogd, atEnd } from "./stage.js";

const LOG = "kv-cache";
const TTL_MS = 1000;
const REQUESTS_MAX = scaled(1_200, Number.POSITIVE_INFINITY);
const FAULTS = ["hand over", "resign", "kill the master", "kill its sidecar", "kill both"] as const;
const ROUNDS = scaled(1, 4);

/** A sidecar that keeps a view, and a master of the cache at it, which goes on with the trace whenever it leads. */
class Node {
  replica!: ReplicaProcess;

  private constructor(
    readonly id: string,
    readonly oplogd: Oplogd,
    readonly client: OplogClient,
    private readonly operations: number,
  ) {}

  static async start(id: string, etcd: string, operations: number): Promise<Node> {
    const oplogd = await anOplogd({ store: { etcd }, args: ["--sidecar-id", `at-${id}`, "--views", LOG] });
    const node = new Node(id, oplogd, aClientOf(oplogd), operations);
    node.enter();
    atEnd(() => node.replica.end());
    return node;
  }

  enter(): void {
    const { target } = this.oplogd;
    const orders = { target, log: LOG, id: this.id, ttlMs: TTL_MS, trace: undefined, requestsMax: REQUESTS_MAX };
    this.replica = new ReplicaProcess(orders, ["--import", "tsx"]);
    this.replica.allow(this.operations);
  }

  async stateHash(): Promise<string> {
    const hash = await waitFor(
      async () => {
        const { appliedSequenceId, stateHash } = await this.client.getStateHash({ log: LOG });
        return Number(appliedSequenceId) === this.operations ? Buffer.from(stateHash).toString("hex") : undefined;
      },
      { what: `the view of ${this.id} to apply everything`, deadlineMs: 30_000 },
    );
    return hash!;
  }
}

it("builds the same state on the primary and two standbys from the whole trace, whoever led meanwhile", {
  timeout: 600_000,
}, async () => {
  const etcd = await anEtcd(["--heartbeat-interval", "50", "--election-timeout", "500"]);
  const { requests } = await loadTrace(undefined, REQUESTS_MAX);
  const whole = wholeLogOf(requests);
  const nodes = await Promise.all(["a", "b", "c"].map((id) => Node.start(id, etcd.endpoint, whole.operations)));
  const head = async () => {
    const { logs } = await nodes[0]!.client.listLogs();
    return Number(logs[0]?.headSequenceId ?? 0n);
  };

  const random = randomOf(SEED);
  const faults = Array.from({ length: ROUNDS }, () => inRandomOrder(random, FAULTS)).flat();
  const led = new Set<string>();
  for (const [index, fault] of faults.entries()) {
    const until = ((index + 1) * whole.operations) / (faults.length + 1);
    await waitFor(async () => (await head()) >= until, { what: `entry ${until} (seed ${SEED})`, deadlineMs: 120_000 });
    const { leader } = await nodes[0]!.client.getLeader({ log: LOG });
    const primary = nodes.find(({ id }) => id === leader?.id)!;
    led.add(primary.id);
    await strike(fault, primary, nodes);
  }
  await waitFor(async () => (await head()) === whole.operations, {
    what: `the end of the trace (seed ${SEED})`,
    deadlineMs: 120_000,
  });

  const hashes = await Promise.all(nodes.map((node) => node.stateHash()));
  expect(hashes).toEqual([whole.stateHash, whole.stateHash, whole.stateHash]);
  const { leader } = await nodes[0]!.client.getLeader({ log: LOG });
  expect(Number(leader?.term)).toBeGreaterThan(faults.length / 2);
  process.stdout.write(`${whole.operations} operations, ${leader?.term} terms, led by ${[...led].join(", ")}\n`);
});

async function strike(fault: (typeof FAULTS)[number], primary: Node, nodes: readonly Node[]): Promise<void> {
  if (fault === "resign" || fault === "hand over") {
    const target = nodes.find((node) => node !== primary)!.id;
    const asked =
      fault === "resign" ? primary.client.resign({ log: LOG }) : primary.client.handOver({ log: LOG, target });
    // It may just have lost the log, and the target may not have entered again yet.
    await asked.catch((error: unknown) => {
      if (!(error instanceof OplogRpcError)) throw error;
    });
    return;
  }
  if (fault !== "kill the master") await primary.oplogd.kill("SIGKILL");
  if (fault !== "kill its sidecar") await primary.replica.end();
  if (fault !== "kill the master") await primary.oplogd.restart();
  if (fault !== "kill its sidecar") primary.enter();
}
