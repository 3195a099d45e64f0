const TERMINAL_MS = 200;
const LINES_MS = 5_000;

/** Tells on stderr how far it has got: one line that is rewritten on a terminal, a line now and then elsewhere. */
export class Progress {
  private readonly timer: NodeJS.Timeout;

  constructor(private readonly describe: () => string) {
    this.timer = setInterval(() => this.show(), process.stderr.isTTY ? TERMINAL_MS : LINES_MS);
  }

  stop(): void {
    clearInterval(this.timer);
    this.show();
    if (process.stderr.isTTY) process.stderr.write("\n");
  }

  private show(): void {
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${this.describe()}` : `${this.describe()}\n`);
  }
}
