/**
 * The write transactions of this process. In the middle of one, the writing thread of LMDB waits for this thread; and
 * process.exit() waits for that thread. So a process that exits then stands still for ever, with the directory locked.
 */
let running = Promise.resolve();
let isOver = false;

/** Once the process is to end, nothing begins, and nobody is told. */
export async function inTransaction(run: () => Promise<void>): Promise<void> {
  if (isOver) return new Promise(() => undefined);
  const transaction = run();
  running = transaction.catch(() => undefined);
  return transaction;
}

/** Nothing begins any more. Resolves when what is running has ended. */
export function endTransactions(): Promise<void> {
  isOver = true;
  return running;
}
