import { requireLogName } from "../oplog/keys.js";
import { NoViewError } from "../oplog/log-errors.js";
import { Change } from "../oplog/timing.js";
import type { LogViews } from "./log-view.js";
import { View, type ViewParts } from "./view.js";

/** Between looks whether a log that was deleted is gone, so that the view of what comes by its name can begin. */
const GONE_MS = 1000;

/** The views that this sidecar was told to keep. */
export class Views implements LogViews {
  private readonly byLog: Map<string, View>;
  private readonly rebuilding = new Change();

  constructor(
    private readonly parts: ViewParts,
    logs: readonly string[],
  ) {
    this.byLog = new Map(logs.map((log) => [log, new View(parts, log)]));
  }

  get(log: string): View {
    const view = this.find(requireLogName(log));
    if (view === undefined) throw new NoViewError(log);
    return view.requireWorking();
  }

  find(log: string): View | undefined {
    return this.byLog.get(log);
  }

  /** Builds anew the views that have stopped, and those that find out now that they hold another history. */
  rebuild(): void {
    this.rebuilding.notify();
  }

  /** Until the signal aborts or the sidecar drains, or all have stopped. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([...this.byLog.values()].map((view) => view.run(signal)));
  }

  /** The same, and each view that has stopped again when it is to be rebuilt. */
  async keepRunning(signal: AbortSignal): Promise<void> {
    await Promise.all([...this.byLog.keys()].map((log) => this.keep(log, signal)));
  }

  private async keep(log: string, signal: AbortSignal): Promise<void> {
    for (let view = this.byLog.get(log)!; ; ) {
      const begun = this.rebuilding.version;
      await view.run(signal);
      if (view.phase !== "failed") return;
      if (view.isOfGoneLog) await this.rebuilding.waitAtMost(this.parts.clock, GONE_MS, begun, signal);
      else await this.rebuilding.wait(begun, signal);
      if (signal.aborted) return;
      view = new View(this.parts, log);
      this.byLog.set(log, view);
    }
  }
}
