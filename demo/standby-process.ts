import { type ChildProcess, fork } from "node:child_process";
import { join } from "node:path";
import type { FromStandby, StandbyOrders, StandbyReport, ToStandby } from "./standby.js";

/** A standby in a process of its own, as it would be. */
export class StandbyProcess {
  received = 0;
  private readonly child: ChildProcess;
  private readonly report: Promise<StandbyReport>;

  constructor(orders: StandbyOrders) {
    // Inherits how this process runs TypeScript; advanced serialization carries 64-bit times.
    this.child = fork(join(import.meta.dirname, "standby.ts"), { serialization: "advanced" });
    this.report = new Promise((resolve, reject) => {
      this.child.on("message", (message: FromStandby) => {
        if ("report" in message) resolve(message.report);
        else this.received = message.received;
      });
      this.child.once("error", reject);
      this.child.once("exit", (code) => reject(new Error(`${orders.name} ended with ${code} before it reported`)));
    });
    // Whoever calls finish() sees it.
    this.report.catch(() => undefined);
    this.tell({ follow: orders });
  }

  /** Once everything up to the head has come, or nothing more is to be expected. */
  async finish(head: number): Promise<StandbyReport> {
    this.tell({ finishAt: head });
    const report = await this.report;
    this.child.disconnect();
    return report;
  }

  private tell(message: ToStandby): void {
    this.child.send(message);
  }
}
