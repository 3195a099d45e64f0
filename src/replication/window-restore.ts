import type { Head, RecordHeader } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { type Operation, OperationWindow } from "../oplog/operation-window.js";
import { openRecord, readPages } from "./history.js";

/** The last operation of each writer. */
export function restoreMarks(head: Head): OperationWindow {
  const window = new OperationWindow();
  for (const mark of head.writers) {
    window.restoreMark(mark.writerId, {
      operationId: mark.operationId,
      first: mark.firstSequenceId,
      last: mark.lastSequenceId,
      term: mark.term,
      timestampMs: mark.timestampMs,
      contentCrc32c: mark.contentCrc32c,
    });
  }
  return window;
}

/** What earlier writers have committed: the marks in the head, and the records since its window starts. */
export async function restoreWindow(store: KvStore, keys: LogKeys, head: Head): Promise<OperationWindow> {
  let window = restoreMarks(head);
  let next = 0n;
  if (head.windowFromSequenceId > head.lastSequenceId || head.writers.length === 0) return window;
  for await (const page of readPages(store, keys, head.windowFromSequenceId)) {
    for (const pair of page.pairs) {
      const { header } = openRecord(keys, pair, head.logId);
      if (header.firstSequenceId > head.lastSequenceId) return window;
      // Trimmed meanwhile: what stood before the hole is no basis for saying what is not in the log.
      if (next !== 0n && header.firstSequenceId > next) window = restoreMarks(head);
      next = header.lastSequenceId + 1n;
      window.restoreRecord(header.firstSequenceId, pair.value.length, operationsOf(header));
    }
  }
  return window;
}

function* operationsOf(header: RecordHeader): Iterable<[string, Operation]> {
  for (const writer of header.operations) {
    for (const [index, operationId] of writer.operationId.entries()) {
      const first = header.firstSequenceId + BigInt(writer.firstOffset[index] ?? 0);
      const operation = {
        operationId,
        first,
        last: first + BigInt(writer.entryCount[index] ?? 1) - 1n,
        term: header.term,
        timestampMs: header.timestampMs,
        contentCrc32c: writer.contentCrc32c[index] ?? 0,
      };
      yield [writer.writerId, operation];
    }
  }
}
