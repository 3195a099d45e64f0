import type { Clock } from "../oplog/clock.js";
import { ImageAbandonedError, type ScanEnd, type StateReader, type StateSummary, type ViewEntry } from "./log-view.js";
import type { ObjectLeases } from "./object-leases.js";
import type { StandbyState, StateEntry } from "./standby-state.js";

export interface MemoryStateParts {
  readonly log: string;
  readonly state: StandbyState;
  readonly leases: ObjectLeases;
  readonly clock: Clock;
  /** Throws ViewFailedError once the state can be relied on no more. */
  readonly requireWorking: () => void;
}

/** What an entry is counted with beyond its key and payload. */
const ENTRY_BYTES = 40;

/** The reader of a state in the memory of this process. Also holds up those who apply entries while an image is taken. */
export class MemoryStateReader implements StateReader {
  private readonly images = new Set<Image>();

  constructor(private readonly parts: MemoryStateParts) {}

  async get(key: Buffer) {
    const { state } = this.parts;
    this.parts.requireWorking();
    const entry = state.get(key);
    return { entry: entry && this.withLease(entry), applied: state.applied };
  }

  async summary(): Promise<StateSummary> {
    this.parts.requireWorking();
    return this.summaryNow;
  }

  async *scan(partBytes: number, signal: AbortSignal): AsyncGenerator<ViewEntry[], ScanEnd | undefined> {
    this.parts.requireWorking();
    const start = this.parts.state.applied;
    let part: ViewEntry[] = [];
    let bytes = 0;
    for (const entry of this.parts.state.scan()) {
      const entryBytes = ENTRY_BYTES + entry.key.length + entry.payload.length;
      if (bytes + entryBytes > partBytes && part.length > 0) {
        yield part;
        await this.parts.clock.yieldTurn();
        if (signal.aborted) return undefined;
        this.parts.requireWorking();
        part = [];
        bytes = 0;
      }
      part.push(this.withLease(entry));
      bytes += entryBytes;
    }
    const end = this.summaryNow;
    if (part.length > 0) yield part;
    return { start, end };
  }

  async *image(partBytes: number, signal: AbortSignal): AsyncGenerator<ViewEntry[], StateSummary | undefined> {
    const { log, state } = this.parts;
    const image = new Image();
    this.images.add(image);
    try {
      const parts = this.scan(partBytes, signal);
      for (;;) {
        const { done, value } = await parts.next();
        if (image.isAbandoned) throw new ImageAbandonedError(log, state.applied);
        if (done) return value?.end;
        yield value;
      }
    } finally {
      this.images.delete(image);
      image.end();
    }
  }

  async renewLeases(keys: readonly string[], leaseMs: number): Promise<string[]> {
    this.parts.requireWorking();
    return this.parts.leases.renew(keys, leaseMs);
  }

  /** To be awaited before entries are applied. */
  async untilFree(): Promise<void> {
    while (this.images.size > 0) await Promise.all([...this.images].map(({ ended }) => ended));
  }

  /** Entries can be applied at once. */
  abandonImages(): void {
    for (const image of this.images) {
      image.isAbandoned = true;
      image.end();
    }
    this.images.clear();
  }

  private get summaryNow(): StateSummary {
    const { applied, stateHash, keys, bytes, keyOrderViolations } = this.parts.state;
    return { applied, stateHash, keys, bytes, keyOrderViolations };
  }

  private withLease(entry: StateEntry): ViewEntry {
    return { ...entry, leaseUntilMs: this.parts.leases.endOf(entry) };
  }
}

/** One that is being taken. */
class Image {
  isAbandoned = false;
  end: () => void = () => undefined;
  readonly ended = new Promise<void>((resolve) => {
    this.end = resolve;
  });
}
