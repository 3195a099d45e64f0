import { NoViewError } from "../oplog/errors.js";
import { requireLogName } from "../oplog/keys.js";
import { View, type ViewParts } from "./view.js";

/** The views that this sidecar was told to keep. */
export class Views {
  private readonly byLog: ReadonlyMap<string, View>;

  constructor(parts: ViewParts, logs: readonly string[]) {
    this.byLog = new Map(logs.map((log) => [log, new View(parts, log)]));
  }

  /** Throws NoViewError, and ViewFailedError for one that has stopped. */
  get(log: string): View {
    const view = this.find(requireLogName(log));
    if (view === undefined) throw new NoViewError(log);
    return view.requireWorking();
  }

  /** Also one that has stopped; undefined where none is kept. */
  find(log: string): View | undefined {
    return this.byLog.get(log);
  }

  /** Until the signal aborts or the sidecar drains. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([...this.byLog.values()].map((view) => view.run(signal)));
  }
}
