import { type DestinationStream, type Logger, pino, stdSerializers } from "pino";
import { prettyFactory } from "pino-pretty";
import { Repeats } from "./repeats.js";

export type { Logger };

export interface LoggerOptions {
  readonly level: string;
  /** auto = pretty on a terminal, else JSON. */
  readonly format: "auto" | "json" | "pretty";
  readonly isTerminal: boolean;
  /** In every line: the logs of several sidecars are often read together. */
  readonly sidecarId: string;
  readonly destination: DestinationStream;
}

/** From here on a kind of line that repeats is held back; below, nothing repeats at the level that is usual. */
const WARN = 40;
const FATAL = 60;

/** The root logger. Ids are logged as strings, because readers of JSON round numbers above 2^53. */
export function createLogger(options: LoggerOptions): Logger {
  const { level, format, isTerminal, sidecarId, destination } = options;
  const isPretty = format === "pretty" || (format === "auto" && isTerminal);
  const repeats = new Repeats();
  return pino(
    {
      level,
      base: { sidecar: sidecarId },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: withoutBigints },
      serializers: { err: (error: Error) => withoutBigints(stdSerializers.err(error)) },
      hooks: {
        logMethod(args, method, severity) {
          if (severity < WARN || severity >= FATAL) return method.apply(this, args);
          const [fields, message] = args as [unknown, string | undefined];
          const {
            event,
            log,
            member,
            method: called,
          } = (typeof fields === "object" && fields !== null ? fields : {}) as Kind;
          const kind = `${this.bindings().room} ${event ?? message ?? fields} ${log} ${member} ${called}`;
          const tell = (repeated: number) =>
            method.call(this, { event, log, member, repeated }, `${message ?? fields}: ${repeated} times more`);
          if (repeats.passes(kind, tell)) method.apply(this, args);
        },
      },
    },
    isPretty ? prettyStream(destination, isTerminal) : destination,
  );
}

interface Kind {
  readonly event?: string;
  readonly log?: string;
  readonly member?: string;
  readonly method?: string;
}

/** The logger of one room, like "replication". There is one for each room, for as long as the process lives. */
export function childLogger(logger: Logger, room: string): Logger {
  const child = logger.child({ room });
  children.set(logger, [...(children.get(logger) ?? []), child]);
  return child;
}

/** For pino a child keeps the level that it was made with. */
const children = new WeakMap<Logger, readonly Logger[]>();

/** Of this logger and of all rooms. */
export function setLevel(logger: Logger, level: string): void {
  for (const each of [logger, ...(children.get(logger) ?? [])]) each.level = level;
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
