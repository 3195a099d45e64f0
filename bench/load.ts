import { type AppendLoad, appendStream, appendUnary, fillLog } from "./append-load.js";
import { type DeliveryLoad, followDelivery, sendPaced } from "./delivery-load.js";
import type { Generator, Measured } from "./generator.js";
import { type HistoryLoad, readHistory } from "./history-load.js";
import { type PutLoad, putIntoEtcd } from "./put-load.js";

/** What a load generator is told, by the name of what it runs. */
export interface Loads {
  readonly appendStream: AppendLoad;
  readonly appendUnary: AppendLoad;
  readonly fillLog: AppendLoad;
  readonly followDelivery: DeliveryLoad;
  readonly sendPaced: DeliveryLoad;
  readonly readHistory: HistoryLoad;
  readonly putIntoEtcd: PutLoad;
}

export type ToLoad =
  | { readonly [K in keyof Loads]: { readonly run: K; readonly load: Loads[K] } }[keyof Loads]
  | "stop";
export type FromLoad = "ready" | { readonly measured: Measured } | { readonly failure: string };

const GENERATORS: { readonly [K in keyof Loads]: Generator<Loads[K]> } = {
  appendStream,
  appendUnary,
  fillLog,
  followDelivery,
  sendPaced,
  readHistory,
  putIntoEtcd,
};

/** A process that runs one load generator and reports what it has measured. */
let stop: () => void = () => undefined;
const stopped = new Promise<void>((resolve) => {
  stop = resolve;
});
const tell = (message: FromLoad) => process.send?.(message);

process.on("disconnect", () => process.exit());
process.on("message", (message: ToLoad) => {
  if (message === "stop") return stop();
  const generator = GENERATORS[message.run] as Generator<unknown>;
  generator(message.load, () => tell("ready"), stopped).then(
    (measured) => tell({ measured }),
    (error) => tell({ failure: error instanceof Error ? String(error.stack) : String(error) }),
  );
});
