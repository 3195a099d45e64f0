import { QueueFullError } from "../oplog/append-errors.js";
import { type AppendItem, QUEUE_RETRY_MS, type QueueBudget } from "./append-item.js";
import { costOf } from "./seal.js";

/** The appends of one log that wait to be sealed, in order. Each is counted in the budget of all logs until it is settled. */
export class AppendLine {
  private items: AppendItem[] = [];
  /** Of those that wait. */
  bytes = 0;

  constructor(private readonly budget: QueueBudget) {}

  get length(): number {
    return this.items.length;
  }

  get waiting(): readonly AppendItem[] {
    return this.items;
  }

  hasRoomFor(item: AppendItem): boolean {
    return this.budget.hasRoomFor(costOf(item));
  }

  /** Resolves once something has left the lines. */
  roomMade(): Promise<void> {
    return this.budget.released();
  }

  /** Throws QueueFullError. */
  join(item: AppendItem): void {
    const { budget } = this;
    const cost = costOf(item);
    if (!budget.hasRoomFor(cost)) {
      throw budget.appends < budget.appendsMax
        ? new QueueFullError("bytes", cost, budget.bytesMax, QUEUE_RETRY_MS)
        : new QueueFullError("appends", 1, budget.appendsMax, QUEUE_RETRY_MS);
    }
    this.count(item);
    this.items.push(item);
  }

  /** Before all others, also when there is no room. */
  joinFirst(item: AppendItem): void {
    this.count(item);
    this.items.unshift(item);
  }

  /** The first so many have been sealed, and wait no more; they are still counted in the budget. */
  advance(count: number): void {
    for (const item of this.items.splice(0, count)) this.bytes -= costOf(item);
  }

  /** Empties the line; whoever calls settles what was in it. */
  abandon(): readonly AppendItem[] {
    const abandoned = this.items;
    this.items = [];
    this.bytes = 0;
    return abandoned;
  }

  /** The append is about to be settled. */
  giveBack(item: AppendItem): void {
    this.budget.give(costOf(item));
  }

  private count(item: AppendItem): void {
    const cost = costOf(item);
    this.budget.take(cost);
    this.bytes += cost;
  }
}
