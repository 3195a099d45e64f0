/** What the rooms tell about their work; the sidecar turns it into metrics. Called on hot paths: must be cheap. */
export interface ReplicationObserver {
  appended(log: string, appends: number, entries: number, bytes: number): void;
  refused(log: string, reason: string): void;
  committed(log: string, entries: number, seconds: number): void;
  writeRetried(log: string): void;
  headMoved(log: string, head: bigint): void;
  /** Higher than those before, whoever has claimed it. */
  termSeen(log: string, term: bigint): void;
  floorMoved(log: string, floor: bigint): void;
  leading(log: string, isPrimary: boolean): void;
  delivered(log: string, entries: number, bytes: number): void;
  watchBroken(log: string): void;
  gapSeen(log: string): void;
  fellBehind(log: string): void;
  subscribers(log: string, count: number): void;
}

export const silentObserver: ReplicationObserver = {
  appended() {},
  refused() {},
  committed() {},
  writeRetried() {},
  headMoved() {},
  termSeen() {},
  floorMoved() {},
  leading() {},
  delivered() {},
  watchBroken() {},
  gapSeen() {},
  fellBehind() {},
  subscribers() {},
};
