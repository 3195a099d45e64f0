import type { KvStore } from "../../src/oplog/kv-store.js";
import { FaultyKvStore, type HeldTxn } from "../support/faulty-kv-store.js";
import type { Dice } from "./support.js";

/** The network of one sidecar to the store, which misbehaves by dice. */
export class BadNetwork extends FaultyKvStore {
  private readonly held: HeldTxn[] = [];

  constructor(
    store: KvStore,
    private readonly dice: Dice,
    /** Somebody watches through it. */
    private readonly hasWatches = false,
  ) {
    super(store);
  }

  misbehave(): void {
    const { dice } = this;
    const faults = [
      () => this.failNextTxns(1 + dice.below(3)),
      () => this.loseNextReplies(1 + dice.below(2)),
      () => this.held.push(this.holdNextTxn()),
      () => this.refuseNextTxns(1),
      ...(this.hasWatches ? [() => this.breakWatches()] : []),
      () => this.goAway(),
      () => this.comeBack(),
      () => this.comeBack(),
    ];
    faults[dice.below(faults.length)]!();
  }

  /** A transaction from long ago reaches the store. */
  deliverLate(): void {
    const [late] = this.held.splice(0, 1);
    // Whoever sent it has heard of it, or has given it up.
    late?.applyNow().catch(() => undefined);
  }

  heal(): void {
    this.comeBack();
    this.forgetPast();
    while (this.held.length > 0) this.deliverLate();
  }
}
