import { NoViewError } from "../oplog/errors.js";
import { requireLogName } from "../oplog/keys.js";
import type { LogViews } from "./log-view.js";
import { View, type ViewParts } from "./view.js";

/** The views that this sidecar was told to keep. */
export class Views implements LogViews {
  private readonly byLog: ReadonlyMap<string, View>;

  constructor(parts: ViewParts, logs: readonly string[]) {
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

  /** Until the signal aborts or the sidecar drains. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([...this.byLog.values()].map((view) => view.run(signal)));
  }
}
