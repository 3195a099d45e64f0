const TURN_BYTES = 4 * 1024 * 1024;

/**
 * Who may hold pages of history, over all logs: so many readers at a time, each of them two pages and what it makes of
 * them. The others wait in the order in which they came. A reader whose peer does not take what it has been sent lends its
 * turn to whoever waits, drops its pages, and reads them again later.
 */
export class PageTurns {
  private free: number;
  /** Those that wait for their peers, the longest first. */
  private readonly lendable = new Set<PageTurn>();
  private readonly waiting = new Set<() => void>();

  constructor(turnsMax: number) {
    this.free = turnsMax;
  }

  get isWanted(): boolean {
    return this.waiting.size > 0;
  }

  /** Undefined: the signal has aborted. Else `end` is to be called. */
  async take(signal?: AbortSignal): Promise<PageTurn | undefined> {
    const [idle] = this.lendable;
    if (this.free > 0 && !this.isWanted) this.free--;
    else if (!(await this.isGranted(idle, signal))) return undefined;
    const turn = new PageTurn(this);
    if (signal?.aborted !== true) return turn;
    turn.end();
    return undefined;
  }

  private isGranted(idle: PageTurn | undefined, signal?: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (isGranted: boolean) => {
        this.waiting.delete(grant);
        signal?.removeEventListener("abort", leave);
        resolve(isGranted);
      };
      const grant = () => settle(true);
      const leave = () => settle(false);
      signal?.addEventListener("abort", leave);
      if (signal?.aborted) return resolve(false);
      this.waiting.add(grant);
      idle?.lose();
    });
  }

  /** For turns alone. */
  give(): void {
    const [grant] = this.waiting;
    if (grant === undefined) this.free++;
    else grant();
  }

  /** For turns alone. */
  lend(turn: PageTurn): void {
    if (this.isWanted) turn.lose();
    else this.lendable.add(turn);
  }

  /** For turns alone. */
  keep(turn: PageTurn): void {
    this.lendable.delete(turn);
  }
}

export class PageTurn {
  /** Another has it: no page may be held any longer. */
  isLost = false;
  private isOver = false;
  private sentBytes = 0;
  private onLost: () => void = () => undefined;

  constructor(private readonly turns: PageTurns) {}

  /** Waits for the peer. False: the turn is lost, whether the peer has taken anything or not. */
  async lendWhile(peer: Promise<void>): Promise<boolean> {
    await new Promise<void>((resolve, reject) => {
      this.onLost = resolve;
      this.turns.lend(this);
      peer.then(resolve, reject);
    });
    this.turns.keep(this);
    return !this.isLost;
  }

  /** Counts what has been sent. False: the turn is lost, for it was long and others wait. */
  lasts(bytes: number): boolean {
    this.sentBytes += bytes;
    if (this.sentBytes >= TURN_BYTES && this.turns.isWanted) this.lose();
    return !this.isLost;
  }

  /** For those who give the turns. */
  lose(): void {
    this.isLost = true;
    this.onLost();
    this.end();
  }

  /** May be called again. */
  end(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.turns.keep(this);
    this.turns.give();
  }
}
