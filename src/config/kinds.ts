import { logListing, requireLogName } from "../oplog/keys.js";

/** How the values of one kind of option are written, read and shown. Reading never throws. */
export interface Kind<T> {
  /** Stands for the value in the help: `--append-bytes-max BYTES`. */
  readonly placeholder: string;
  /** What is accepted, for the help, where the placeholder does not say it all. */
  readonly accepts?: string;
  /** Texts come one by one from repeated flags, comma-separated text or a YAML list. Only lists get more than one. */
  readonly isList?: true;
  /** A flag without a value means "true", and --no-… means "false". */
  readonly isSwitch?: true;
  /** The value names a file that must be readable. */
  readonly isFile?: true;
  read(texts: readonly string[]): T | Refusal;
  format(value: T): readonly string[];
}

/** A value that is not accepted. Continues a sentence that starts with what was received. */
export class Refusal {
  constructor(readonly because: string) {}
}

export function scalar<T>(
  kind: Pick<Kind<T>, "placeholder" | "accepts" | "isSwitch" | "isFile"> & {
    read(text: string): T | Refusal;
    format(value: T): string;
  },
): Kind<T> {
  return {
    ...kind,
    read: (texts) => (texts.length === 1 ? kind.read(texts[0]!) : new Refusal("is a list, and one value is wanted")),
    format: (value) => [kind.format(value)],
  };
}

export function list<T>(element: Kind<T>): Kind<readonly T[]> {
  return {
    placeholder: `${element.placeholder},…`,
    ...(element.accepts === undefined ? {} : { accepts: element.accepts }),
    isList: true,
    read(texts) {
      const values: T[] = [];
      for (const text of texts) {
        const value = element.read([text]);
        if (value instanceof Refusal) {
          return texts.length === 1
            ? value
            : new Refusal(`has the element ${JSON.stringify(text)}, which ${value.because}`);
        }
        values.push(value);
      }
      return Object.freeze(values);
    },
    format: (values) => values.flatMap((value) => element.format(value)),
  };
}

export function text(placeholder: string, pattern: RegExp, accepts: string): Kind<string> {
  return scalar({
    placeholder,
    accepts,
    read: (received) => (pattern.test(received) ? received : new Refusal(`is not accepted: ${accepts}`)),
    format: (value) => value,
  });
}

export const keyPrefix: Kind<string> = scalar({
  placeholder: "PREFIX",
  read(received) {
    try {
      return logListing.requirePrefix(received);
    } catch {
      return new Refusal('is no prefix: one or more of "/" and [A-Za-z0-9_.-], no "/" at the end');
    }
  },
  format: (value) => value,
});

export const logName: Kind<string> = scalar({
  placeholder: "LOG",
  read(received) {
    try {
      return requireLogName(received);
    } catch {
      return new Refusal("is no log name: 1 to 128 characters of [A-Za-z0-9_.-], the first a letter or a digit");
    }
  },
  format: (value) => value,
});

export const file: Kind<string> = scalar({
  placeholder: "FILE",
  isFile: true,
  read: (path) => (path === "" ? new Refusal("names no file") : path),
  format: (path) => path,
});

export const directory: Kind<string> = scalar({
  placeholder: "DIR",
  read: (path) => (path === "" ? new Refusal("names no directory") : path),
  format: (path) => path,
});

export const boolean: Kind<boolean> = scalar({
  placeholder: "true|false",
  isSwitch: true,
  read: (received) =>
    received === "true" ? true : received === "false" ? false : new Refusal("is neither true nor false"),
  format: String,
});

export function oneOf<const T extends string>(...choices: readonly T[]): Kind<T> {
  return scalar({
    placeholder: choices.join("|"),
    read: (received) =>
      choices.find((choice) => choice === received) ?? new Refusal(`is not one of ${choices.join(", ")}`),
    format: (value) => value,
  });
}

export function integer(min: number, max: number): Kind<number> {
  return bounded("N", min, max, String, (received) =>
    /^-?\d{1,15}$/.test(received) ? Number(received) : new Refusal("is not a whole number"),
  );
}

const BYTE_UNITS = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

/** A whole number of bytes, or a number with the unit B, KiB, MiB or GiB. */
export function bytes(min: number, max: number): Kind<number> {
  const hint = "is not a size: write a number of bytes, or one with a unit like 512KiB, 1.5MiB or 2GiB";
  return bounded("BYTES", min, max, formatBytes, (received) => {
    const value = /^\d+$/.test(received) ? Number(received) : withUnit(received, BYTE_UNITS);
    return value === undefined ? new Refusal(hint) : Math.floor(value);
  });
}

const DURATION_UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Milliseconds inside; the unit ms, s, m or h is required outside, because a bare number would be guessed wrong. */
export function duration(minMs: number, maxMs: number): Kind<number> {
  const hint = "is not a duration: write a number with a unit, like 500ms, 5s or 1.5m";
  return bounded("DURATION", minMs, maxMs, formatDuration, (received) => {
    const valueMs = withUnit(received, DURATION_UNITS);
    return valueMs === undefined ? new Refusal(hint) : Math.round(valueMs);
  });
}

export function formatBytes(value: number): string {
  return inLargestUnit(value, BYTE_UNITS) ?? String(value);
}

export function formatDuration(valueMs: number): string {
  return inLargestUnit(valueMs, DURATION_UNITS) ?? `${valueMs}ms`;
}

function bounded(
  placeholder: string,
  min: number,
  max: number,
  format: (value: number) => string,
  read: (text: string) => number | Refusal,
): Kind<number> {
  const accepts = `${format(min)} to ${format(max)}`;
  return scalar({
    placeholder,
    accepts,
    format,
    read(received) {
      const value = read(received);
      return value instanceof Refusal || (value >= min && value <= max)
        ? value
        : new Refusal(`is ${value < min ? "below" : "above"} the limit: ${accepts}`);
    },
  });
}

function withUnit(received: string, units: Readonly<Record<string, number>>): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s?([A-Za-z]+)$/.exec(received);
  const unit = Object.keys(units).find((name) => name.toLowerCase() === match?.[2]?.toLowerCase());
  return unit === undefined ? undefined : Number(match![1]) * units[unit]!;
}

/** Exact or nothing, so that a value that is shown can be read back. */
function inLargestUnit(value: number, units: Readonly<Record<string, number>>): string | undefined {
  if (value === 0) return undefined;
  const unit = Object.entries(units).findLast(([, size]) => size > 1 && value % size === 0);
  return unit && `${value / unit[1]}${unit[0]}`;
}
