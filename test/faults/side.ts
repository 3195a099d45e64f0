import type { OplogClient } from "../../src/client/client.js";
import type { FaultProxy } from "../support/fault-proxy.js";
import type { Oplogd } from "../support/oplogd.js";
import { freePort } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { Master, type Records } from "./master.js";
import type { MasterPlan } from "./master-plan.js";
import { aClientOf, anOplogd, atEnd } from "./stage.js";

export interface SidePlan {
  readonly name: string;
  /** Of etcd, or of what stands before it. */
  readonly etcd: string;
  readonly proxy?: FaultProxy;
  readonly env?: Readonly<Record<string, string>>;
  readonly master: Omit<MasterPlan, "target" | "id" | "writerId">;
}

/** A sidecar that keeps a view of the log, and a master at it. */
export class Side {
  master!: Master;
  private generation = 0;

  private constructor(
    readonly plan: SidePlan,
    readonly oplogd: Oplogd,
    readonly client: OplogClient,
    private readonly records: Records,
  ) {}

  static async start(plan: SidePlan, records: Records): Promise<Side> {
    const { name, etcd, env, master } = plan;
    const args = ["--sidecar-id", `sidecar-${name}`, "--views", master.log];
    const options = { store: { etcd }, port: await freePort(), args };
    const oplogd = await anOplogd(env === undefined ? options : { ...options, env });
    const side = new Side(plan, oplogd, aClientOf(oplogd), records);
    atEnd(() => side.master.kill());
    side.startMaster();
    await side.master.isCampaigning();
    return side;
  }

  get name(): string {
    return this.plan.name;
  }

  /** Starts again what has ended, and sees it take part. */
  async revive(): Promise<void> {
    await this.restart();
    await this.master.isCampaigning();
  }

  /** Starts again what has ended: both processes run, the store may be away. */
  async restart(): Promise<void> {
    if (this.master.hasExited) this.startMaster();
    await Promise.all([this.oplogd.hasExited ? this.oplogd.restart() : undefined, this.master.hasBegun()]);
  }

  /** Of the view, once it has applied everything up to this entry. */
  async stateHash(appliedSequenceId: bigint): Promise<string> {
    const { log } = this.plan.master;
    const hasApplied = async () => {
      const hash = await this.client.getStateHash({ log });
      if (hash.appliedSequenceId < appliedSequenceId) return undefined;
      return `${hash.appliedSequenceId} ${Buffer.from(hash.stateHash).toString("hex")}`;
    };
    const hash = await waitFor(hasApplied, { what: `the view of ${this.name} to apply ${appliedSequenceId}` });
    return hash!;
  }

  private startMaster(): void {
    const { name, master } = this.plan;
    this.generation++;
    const writerId = `${name}.${this.generation}`;
    this.master = Master.start({ ...master, target: this.oplogd.target, id: name, writerId }, this.records);
  }
}
