import { constants } from "node:os";
import type { Logger } from "../telemetry/logger.js";
import type { Exit } from "./exit.js";

export interface SignalRequests {
  /** Finish what is open, hand on what is led, and end. */
  readonly stop: AbortSignal;
  /** The same, but do not take the time that was meant for it. */
  readonly hurry: AbortSignal;
}

const STOP_SIGNALS = ["SIGTERM", "SIGINT", "SIGQUIT"] as const;
/** Harmless: the first would open the inspector of Node, the second would end the process. */
const UNUSED_SIGNALS = ["SIGUSR1", "SIGUSR2"] as const;
/**
 * Who presses Ctrl-C below npm, or has a supervisor that signals the process and its group, means one request with the two
 * signals that arrive.
 */
const SAME_REQUEST_MS = 100;

/**
 * The first request to stop stops in good order, the second hurries, the third ends the process at once. `reload` is
 * called on SIGHUP, unless this process runs on a terminal: then that has been closed, which is a request to stop.
 */
export function takeSignals(logger: Logger, exit: Exit, hasTerminal: boolean, reload: () => void): SignalRequests {
  const stop = new AbortController();
  const hurry = new AbortController();
  let requestedMs = Number.NEGATIVE_INFINITY;
  const request = (signal: NodeJS.Signals) => {
    const isSame = performance.now() - requestedMs < SAME_REQUEST_MS;
    const next = !stop.signal.aborted ? "stop" : hurry.signal.aborted ? "end at once" : "hurry";
    const does = isSame ? "is part of the request before" : `means ${next}`;
    logger.info({ event: "signal", signal }, `${signal} received: ${does}`);
    if (isSame) return;
    requestedMs = performance.now();
    if (next === "stop") stop.abort();
    else if (next === "hurry") hurry.abort();
    else exit.now(128 + constants.signals[signal]);
  };
  for (const signal of STOP_SIGNALS) process.on(signal, request);
  for (const signal of UNUSED_SIGNALS) {
    process.on(signal, () => logger.info({ event: "signal", signal }, `${signal} received: it means nothing here`));
  }
  process.on("SIGHUP", (signal) => {
    if (hasTerminal) return request(signal);
    logger.info({ event: "signal", signal }, "SIGHUP received: reading again what can be");
    reload();
  });
  return { stop: stop.signal, hurry: hurry.signal };
}
