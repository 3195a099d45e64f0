const EXIT_INTERRUPTED = 130;

/** Runs what goes on until Ctrl-C, which ends it quietly with exit code 130; a second one ends the process at once. */
export async function interruptible(run: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const abort = new AbortController();
  const onSignal = () => abort.abort();
  process.once("SIGINT", onSignal);
  try {
    await run(abort.signal);
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    process.removeListener("SIGINT", onSignal);
    if (abort.signal.aborted) process.exitCode = EXIT_INTERRUPTED;
  }
}
