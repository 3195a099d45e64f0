export interface Wait {
  readonly deadlineMs?: number;
  /** What is waited for, as it should read in the failure: "the key to vanish". */
  readonly what: string;
}

/** Polls until the condition yields something truthy, and returns that. Fails when the deadline passes first. */
export async function waitFor<T>(condition: () => T | Promise<T>, { deadlineMs = 10_000, what }: Wait): Promise<T> {
  const giveUpAt = performance.now() + deadlineMs;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (performance.now() >= giveUpAt) throw new Error(`waited ${deadlineMs} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Fails when the promise has not settled within the deadline. */
export async function within<T>(promise: PromiseLike<T>, { deadlineMs = 10_000, what }: Wait): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${deadlineMs} ms for ${what}`)), deadlineMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
