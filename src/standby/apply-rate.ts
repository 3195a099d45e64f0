/** Of which the rate is the mean; a few seconds. */
const SAMPLES_MAX = 12;
const SAMPLE_MS = 250;

/** How fast entries are being applied at present. */
export class ApplyRate {
  private readonly samples: { readonly atMs: number; readonly applied: number }[] = [];

  /** Call it now and then; more often than every 250 ms makes no difference. */
  note(atMs: number, applied: number): void {
    const last = this.samples.at(-1);
    if (last !== undefined && atMs - last.atMs < SAMPLE_MS) return;
    this.samples.push({ atMs, applied });
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
  }

  /** Undefined: nothing has been applied of late, or it is too early to tell. */
  perSecond(nowMs: number, applied: number): number | undefined {
    const oldest = this.samples[0];
    if (oldest === undefined || nowMs <= oldest.atMs || applied <= oldest.applied) return undefined;
    return ((applied - oldest.applied) * 1000) / (nowMs - oldest.atMs);
  }
}
