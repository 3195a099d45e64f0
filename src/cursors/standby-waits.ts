/** An append that is durable, and is not answered before enough standbys have passed it. */
export interface StandbyWait {
  readonly lastSequenceId: bigint;
  /** Where it stands in the heap; -1 = it has left. */
  index: number;
}

/** Waits by the id they wait for, the lowest first; any of them can leave in O(log n). */
export class StandbyWaits<W extends StandbyWait> {
  private readonly heap: W[] = [];

  get lowest(): W | undefined {
    return this.heap[0];
  }

  add(wait: W): void {
    this.heap.push(wait);
    this.rise(wait, this.heap.length - 1);
  }

  remove(wait: W): void {
    const { index } = wait;
    if (index < 0) return;
    wait.index = -1;
    const moved = this.heap.pop()!;
    if (moved === wait) return;
    this.rise(moved, index);
    this.sink(moved, moved.index);
  }

  private rise(wait: W, from: number): void {
    let index = from;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (this.heap[parent]!.lastSequenceId <= wait.lastSequenceId) break;
      this.place(this.heap[parent]!, index);
      index = parent;
    }
    this.place(wait, index);
  }

  private sink(wait: W, from: number): void {
    let index = from;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= this.heap.length) break;
      const right = this.heap[child + 1];
      if (right !== undefined && right.lastSequenceId < this.heap[child]!.lastSequenceId) child++;
      if (this.heap[child]!.lastSequenceId >= wait.lastSequenceId) break;
      this.place(this.heap[child]!, index);
      index = child;
    }
    this.place(wait, index);
  }

  private place(wait: W, index: number): void {
    this.heap[index] = wait;
    wait.index = index;
  }
}
