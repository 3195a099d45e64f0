/** For work that must not be broken off. Its thread may hang in the disk, and then the process is killed. */
const SETTLE_MS_MAX = 1000;

export interface ExitSteps {
  /** Lets nothing new begin, and resolves when what is running has ended. */
  readonly settle: () => Promise<void>;
  /** Writes the last lines. */
  readonly flush: () => void;
}

/**
 * Ends the process at once, in any state. process.exit() alone does not: it waits for threads, and they may wait for this
 * one.
 */
export class Exit {
  private code: number | undefined;

  constructor(private readonly steps: ExitSteps) {}

  /** The first call decides the code. */
  now(code: number): void {
    if (this.code !== undefined) return;
    this.code = code;
    const kill = () => {
      this.steps.flush();
      process.kill(process.pid, "SIGKILL");
    };
    setTimeout(kill, SETTLE_MS_MAX);
    void this.steps.settle().then(() => process.exit(code));
  }
}
