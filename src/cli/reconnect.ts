import { backOffMs, pause } from "../client/back-off.js";
import { OplogRpcError } from "../client/errors.js";
import { isTransient } from "../client/follow.js";
import { brokenText } from "./notices.js";
import type { Session } from "./session.js";

/**
 * What a stream of messages brings, which is opened again after every break, with a note, until the signal aborts. Until
 * its first message it must neither break nor be silent for longer than --timeout: there may be nothing at that address.
 */
export async function* reconnecting<T>(
  session: Session,
  open: (signal: AbortSignal) => AsyncIterable<T>,
  signal: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  let attempts = 0;
  let hasBeenAnswered = false;
  // Such a stream has no deadline, and a host that swallows packets would never be noticed.
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(), session.timeoutMs);
  try {
    while (!signal.aborted) {
      let error = new OplogRpcError({ code: "UNAVAILABLE", message: "the sidecar ended the stream" });
      try {
        for await (const message of open(hasBeenAnswered ? signal : AbortSignal.any([signal, silence.signal]))) {
          clearTimeout(timer);
          attempts = 0;
          hasBeenAnswered = true;
          yield message;
        }
      } catch (caught) {
        if (silence.signal.aborted) throw new OplogRpcError({ code: "DEADLINE_EXCEEDED", message: "no message came" });
        if (signal.aborted) return;
        if (!(caught instanceof OplogRpcError) || !isTransient(caught) || !hasBeenAnswered) throw caught;
        error = caught;
      }
      if (signal.aborted) return;
      if (!hasBeenAnswered) throw error;
      const retryInMs = backOffMs(attempts, error.retryAfterMs);
      attempts += 1;
      session.note(brokenText(error, retryInMs));
      await pause(retryInMs, signal);
    }
  } finally {
    clearTimeout(timer);
  }
}
