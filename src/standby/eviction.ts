import { sleep } from "../oplog/timing.js";
import type { Promotion } from "./object-leases.js";
import { type EvictionParts, type EvictionWriter, isWorking, Sweep } from "./sweep.js";

export interface LeaseSetUp {
  readonly objects: number;
  readonly tookMs: number;
}

const CHECK_MS = 1000;
/** A sweep that has found nothing to do may take a twentieth of the time, as far as that is no longer rest than this. */
const REST_PER_WORK = 20;
const REST_MS_MAX = 2000;
/**
 * Removes the objects of one view whose leases have run out, while this sidecar leads its log, by REMOVE entries.
 *
 * Invariant: a REMOVE deletes exactly the value that was judged. It is decided while the line of the writer is held and
 * the state is the whole log, and goes to the front of that line. Whatever the master appends meanwhile comes after it.
 */
export class ObjectEviction {
  /** By the time of leases: of the last sweep or, before that, of the promotion. */
  private lookedAtMs = 0;
  /** By the monotonic clock. */
  private restUntilMs = 0;
  private promotion: Promotion | undefined;

  constructor(private readonly parts: EvictionParts) {}

  /** To be called at a promotion, when everything of earlier terms has been applied, and before the candidate leads. */
  setUp(): LeaseSetUp {
    const { view, clock, logger } = this.parts;
    const startedMs = clock.monotonicMs();
    const promotion = view.leases.promote();
    this.promotion = promotion;
    this.lookedAtMs = promotion.atMs;
    this.restUntilMs = 0;
    const { defaultMs } = view.leases;
    if (defaultMs !== undefined) view.state.leasesEndFrom(promotion.atMs + defaultMs);
    const setUp = { objects: defaultMs === undefined ? 0 : view.state.keys, tookMs: clock.monotonicMs() - startedMs };
    if (defaultMs !== undefined) {
      logger.info(
        { event: "object_leases_set_up", log: view.name, ...setUp, defaultMs },
        "objects without a lease of their own that is still valid have got the default lease anew",
      );
    }
    return setUp;
  }

  /**
   * While this sidecar leads under the term of the writer, after `setUp`: until the signal aborts or the writer has ended.
   * Further terms of the same leadership may follow.
   */
  async run(signal: AbortSignal, writer: EvictionWriter): Promise<void> {
    while (!signal.aborted && writer.end === undefined) {
      if (this.isDue()) this.note(await new Sweep(this.parts, writer, signal).run());
      await sleep(this.parts.clock, CHECK_MS, signal);
    }
  }

  /** To be called when the leadership is over, with all of its terms. */
  tearDown(): void {
    this.parts.view.leases.demote(this.promotion);
  }

  private isDue(): boolean {
    const { view, clock } = this.parts;
    const { leases, state } = view;
    if (leases.defaultMs === undefined || clock.monotonicMs() < this.restUntilMs || !isWorking(view)) return false;
    const { nowMs } = leases;
    // After the clock has gone back, leases may end at earlier times than was computed.
    return nowMs >= state.earliestLeaseMs || nowMs < this.lookedAtMs;
  }

  private note({ nowMs, workMs, evicted, batches, heldMsMax, isPostponed, isOver }: Sweep): void {
    const { view, clock, logger } = this.parts;
    this.lookedAtMs = nowMs;
    const isIdle = evicted === 0 && !isPostponed;
    this.restUntilMs = isIdle ? clock.monotonicMs() + Math.min(workMs * REST_PER_WORK, REST_MS_MAX) : 0;
    const facts = { log: view.name, objects: evicted, batches, heldMs: Math.round(heldMsMax * 10) / 10 };
    if (evicted > 0)
      logger.info({ event: "objects_evicted", ...facts }, "objects whose lease has run out were removed");
    if (isPostponed && !isOver)
      logger.warn({ event: "eviction_postponed", ...facts }, "not all could be removed now; trying again");
  }
}
