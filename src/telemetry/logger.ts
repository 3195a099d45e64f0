import { type DestinationStream, type Logger, pino, stdSerializers } from "pino";
import { prettyFactory } from "pino-pretty";

export type { Logger };

export interface LoggerOptions {
  readonly level: string;
  /** auto = pretty on a terminal, else JSON. */
  readonly format: "auto" | "json" | "pretty";
  readonly isTerminal: boolean;
  /** Default: standard output. Written to synchronously: the lines before a crash are the ones that matter. */
  readonly destination?: DestinationStream;
}

/** The root logger. Ids are logged as strings, because readers of JSON round numbers above 2^53. */
export function createLogger(options: LoggerOptions): Logger {
  const { level, format, isTerminal } = options;
  const destination = options.destination ?? pino.destination({ dest: 1, sync: true });
  const isPretty = format === "pretty" || (format === "auto" && isTerminal);
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: withoutBigints },
      serializers: { err: (error: Error) => withoutBigints(stdSerializers.err(error)) },
    },
    isPretty ? prettyStream(destination, isTerminal) : destination,
  );
}

/** The logger of one room, like "replication", and of what it is about, like { log: "orders" }. */
export function childLogger(logger: Logger, room: string, about: Readonly<Record<string, string>> = {}): Logger {
  return logger.child({ room, ...about });
}

/** In this process and at once, unlike the stream of pino-pretty, so that a crash takes no line with it. */
function prettyStream(destination: DestinationStream, colorize: boolean): DestinationStream {
  const prettify = prettyFactory({ colorize });
  return { write: (line) => destination.write(prettify(line) ?? line) };
}

const DEPTH_MAX = 5;

/** Copies only what holds a bigint, so that ordinary lines cost one look at their fields. */
function withoutBigints<T extends object>(fields: T): T {
  return convert(fields, DEPTH_MAX) as T;
}

function convert(value: unknown, depthLeft: number): unknown {
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null || depthLeft === 0) return value;
  if (Array.isArray(value)) {
    const copy = value.map((element) => convert(element, depthLeft - 1));
    return copy.some((element, index) => element !== value[index]) ? copy : value;
  }
  // Errors, dates and buffers have serializers of their own.
  if (Object.getPrototypeOf(value) !== Object.prototype && !("raw" in value)) return value;
  let copy: Record<string, unknown> | undefined;
  for (const [name, field] of Object.entries(value)) {
    const converted = convert(field, depthLeft - 1);
    if (converted === field) continue;
    copy ??= { ...value };
    copy[name] = converted;
  }
  return copy ?? value;
}
