import { type AppendItem, type AppendOutcome, isDuplicate } from "./append-item.js";
import type { SealedRecord } from "./seal.js";
import { type Failure, unknownFor } from "./writer-end.js";

interface Settlement {
  readonly item: AppendItem;
  readonly outcome: AppendOutcome;
}

/** What became of the record that was made of the appends. */
export interface RecordFate {
  /** Undefined: nothing new was to be written. */
  readonly record: SealedRecord | undefined;
  /** Undefined: it is durable. */
  readonly failure: Failure | undefined;
  /** By what the writer has ended, if it has. */
  readonly isFenced: boolean;
  readonly isLost: boolean;
}

/** Tells everyone what became of the append, in order. Counts what was written. */
export function settleAll(
  settlements: readonly Settlement[],
  { record, failure, isFenced, isLost }: RecordFate,
  onRefused: (reason: string) => void,
): { readonly appends: number; readonly entries: number; readonly bytes: number } {
  let appends = 0;
  let entries = 0;
  let bytes = 0;
  // Without a record it is the duplicates that could not be confirmed; after a loss of data nothing is sure.
  const isInDoubt = record === undefined || isLost;
  for (const { item, outcome } of settlements) {
    const isOfRecord = record !== undefined && "appended" in outcome && outcome.appended.last >= record.first;
    if (failure !== undefined && (isOfRecord || (isInDoubt && isDuplicate(outcome)))) {
      const isSure = isOfRecord || isFenced;
      const error = isSure ? failure(item) : unknownFor("the log could not be confirmed")(item);
      onRefused(error.reason);
      item.settle({ error });
    } else {
      if ("error" in outcome) onRefused(outcome.error.reason);
      else if (!outcome.appended.isDuplicate) {
        appends++;
        entries += item.entries.count;
        bytes += item.entries.costBytes;
      }
      item.settle(outcome);
    }
  }
  return { appends, entries, bytes };
}
