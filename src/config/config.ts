import { Document } from "yaml";
import { formatAddress } from "./addresses.js";
import { helpText } from "./help.js";
import { type Kind, Refusal } from "./kinds.js";
import { HOSTNAME_DEFAULT, type OptionKey, optionKeys, optionTable, refusesEmpty, type Settings } from "./options.js";
import { CONFIG_FLAG, CONFIG_VARIABLE, type Given, readEnvironment, readFlags, readYaml } from "./sources.js";

/** What the process runs with. Frozen, and all there is to configure: nothing else reads flags or environment. */
export interface Config extends Settings {
  /** etcd if any of its endpoints is named. */
  readonly storeKind: "etcd" | "embedded";
}

export interface ConfigInput {
  /** Without the interpreter and the script. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly hostname: string;
  /** Throws when the file cannot be read. */
  readFile(path: string): string;
}

export type ConfigResult =
  | { readonly kind: "run"; readonly config: Config }
  | { readonly kind: "help" | "print-config"; readonly text: string }
  | { readonly kind: "version" }
  /** One line each, all that were found. */
  | { readonly kind: "invalid"; readonly problems: readonly string[] };

/** Default < YAML file < environment < flags. Every value given is checked, also one that another source outranks. */
export function parseConfig(input: ConfigInput): ConfigResult {
  const flags = readFlags(input.argv);
  if (flags.wantsHelp) return { kind: "help", text: helpText() };
  if (flags.wantsVersion) return { kind: "version" };
  const file = readConfigFile(flags.configFile, input);
  const environment = readEnvironment(input.env);
  const problems = [...file.problems, ...environment.problems, ...flags.problems];

  const values: Partial<Record<OptionKey, unknown>> = {};
  const sources: Partial<Record<OptionKey, string>> = {};
  for (const key of optionKeys) {
    const option = optionTable[key];
    const text = option.default === HOSTNAME_DEFAULT ? input.hostname : option.default;
    values[key] = text === undefined ? undefined : read(key, text === "" ? [] : text.split(","));
  }
  for (const given of [...file.given, ...environment.given, ...flags.given]) {
    const value = readGiven(given);
    const problem = value instanceof Refusal ? refusalOf(given, value) : unreadable(given, input);
    if (problem !== undefined) problems.push(problem);
    values[given.key] = value;
    sources[given.key] = given.source;
  }
  for (const key of optionKeys) {
    const value = values[key];
    // The only default that depends on the machine, and a machine may have a name that is no id.
    if (value instanceof Refusal && sources[key] === undefined) {
      problems.push(`${optionTable[key].name}: its default, ${JSON.stringify(input.hostname)}, ${value.because}`);
    }
  }
  if (problems.length > 0) return { kind: "invalid", problems };

  const settings = values as unknown as Settings;
  problems.push(...contradictions(settings, (key) => sources[key] ?? optionTable[key].name));
  if (problems.length > 0) return { kind: "invalid", problems };
  const config: Config = Object.freeze({
    ...settings,
    storeKind: settings.etcdEndpoints.length > 0 ? "etcd" : "embedded",
  });
  return flags.wantsPrint ? { kind: "print-config", text: printConfig(config) } : { kind: "run", config };
}

/** Every option by name, for a log line. Passwords and keys are files, of which only the path is known here. */
export function describeConfig(config: Config): Record<string, string> {
  return Object.fromEntries(optionKeys.map((key) => [optionTable[key].name, formatted(config, key).join(",")]));
}

/** As a YAML file that, given back, has the same effect. */
function printConfig(config: Config): string {
  const document = new Document();
  for (const key of optionKeys) {
    const { name, kind } = optionTable[key];
    const texts = formatted(config, key);
    if (texts.length === 0 && (config[key] === undefined || refusesEmpty(key) !== undefined)) continue;
    const value = config[key];
    const isPlain = typeof value === "boolean" || String(value) === texts[0];
    document.setIn(name.split("."), kind.isList ? texts : isPlain ? value : texts[0]);
  }
  return document.toString();
}

function formatted(config: Config, key: OptionKey): readonly string[] {
  const kind = optionTable[key].kind as Kind<unknown>;
  const value = config[key];
  return value === undefined && optionTable[key].default === undefined ? [] : kind.format(value);
}

function read(key: OptionKey, texts: readonly string[]): unknown {
  return (optionTable[key].kind as Kind<unknown>).read(texts);
}

function readGiven({ key, texts }: Given): unknown {
  const because = texts.length === 0 ? refusesEmpty(key) : undefined;
  return because === undefined ? read(key, texts) : new Refusal(because);
}

function refusalOf(given: Given, refusal: Refusal): string {
  return `${given.source}: ${JSON.stringify(given.texts.join(","))} ${refusal.because}`;
}

function readConfigFile(fromFlag: string | undefined, input: ConfigInput): { given: Given[]; problems: string[] } {
  const fromEnvironment = input.env[CONFIG_VARIABLE];
  const path = fromFlag ?? (fromEnvironment === "" ? undefined : fromEnvironment);
  if (path === undefined) return { given: [], problems: [] };
  try {
    return readYaml(path, input.readFile(path));
  } catch (error) {
    const source = fromFlag === undefined ? CONFIG_VARIABLE : CONFIG_FLAG;
    return { given: [], problems: [`${source}: cannot read ${JSON.stringify(path)}: ${messageOf(error)}`] };
  }
}

function unreadable(given: Given, input: ConfigInput): string | undefined {
  if (!optionTable[given.key].kind.isFile) return undefined;
  const path = given.texts[0]!;
  try {
    input.readFile(path);
    return undefined;
  } catch (error) {
    return `${given.source}: cannot read ${JSON.stringify(path)}: ${messageOf(error)}`;
  }
}

/** Longer than any append waits for a standby, and than a consumer takes to restart. */
const CURSOR_EXPIRY_MS_MIN = 5 * 60_000;

function contradictions(settings: Settings, sourceOf: (key: OptionKey) => string): string[] {
  const problems: string[] = [];
  const needs = (key: OptionKey, other: OptionKey) => {
    if (settings[key] !== undefined && settings[other] === undefined) {
      problems.push(`${sourceOf(key)}: needs ${optionTable[other].name}, which is not set`);
    }
  };
  needs("etcdCertFile", "etcdKeyFile");
  needs("etcdKeyFile", "etcdCertFile");
  needs("etcdUsername", "etcdPasswordFile");
  needs("etcdPasswordFile", "etcdUsername");
  for (const key of ["etcdUsername", "etcdCaFile", "etcdCertFile"] as const) {
    if (settings[key] !== undefined && settings.etcdEndpoints.length === 0) {
      problems.push(`${sourceOf(key)}: has no effect without etcd.endpoints`);
    }
  }
  if (settings.objectLeaseDefaultMs !== undefined && settings.views.length === 0) {
    problems.push(`${sourceOf("objectLeaseDefaultMs")}: has no effect without views, the logs that it is for`);
  }
  if (settings.cursorExpiryMs !== 0 && settings.cursorExpiryMs < CURSOR_EXPIRY_MS_MIN) {
    problems.push(`${sourceOf("cursorExpiryMs")}: below 5m, a consumer that is restarted would lose its place`);
  }
  const plain = settings.etcdEndpoints.find((url) => url.startsWith("http:"));
  const isEncrypted = settings.etcdEndpoints.some((url) => url.startsWith("https:"));
  if (
    plain !== undefined &&
    (isEncrypted || settings.etcdCaFile !== undefined || settings.etcdCertFile !== undefined)
  ) {
    problems.push(`${sourceOf("etcdEndpoints")}: ${plain} is not encrypted; with TLS, every endpoint is https://`);
  }
  if (isEncrypted && settings.etcdCaFile === undefined) {
    problems.push(`${sourceOf("etcdEndpoints")}: https:// needs etcd.ca-file, which is not set`);
  }
  if (settings.listen.length === 0) problems.push(`${sourceOf("listen")}: at least one address is needed`);
  const addresses = [...settings.listen, ...(settings.adminListen === undefined ? [] : [settings.adminListen])];
  const texts = addresses.filter((address) => address.kind === "unix" || address.port !== 0).map(formatAddress);
  for (const twice of new Set(texts.filter((text, index) => texts.indexOf(text) !== index))) {
    problems.push(`${sourceOf("listen")}: ${twice} is named twice among listen and admin.listen`);
  }
  if (settings.appendBytesMax > settings.appendQueueBytesMax) {
    problems.push(
      `${sourceOf("appendBytesMax")}: ${settings.appendBytesMax} bytes never fit into append.queue-bytes-max, ` +
        `${settings.appendQueueBytesMax} bytes`,
    );
  }
  return problems;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
