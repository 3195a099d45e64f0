import { parseArgs } from "node:util";
import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, type Range } from "yaml";
import { environmentVariableOf, flagOf, type OptionKey, optionKeys, optionTable, refusesEmpty } from "./options.js";
import { suggestion } from "./suggest.js";

/** A value as one source gives it. */
export interface Given {
  readonly key: OptionKey;
  /** For messages: "--listen", "OPLOG_LISTEN" or "oplogd.yaml:3:9 (listen)". */
  readonly source: string;
  readonly texts: readonly string[];
}

export interface Reading {
  readonly given: Given[];
  readonly problems: string[];
}

export interface FlagReading extends Reading {
  readonly configFile: string | undefined;
  readonly wantsHelp: boolean;
  readonly wantsVersion: boolean;
  readonly wantsPrint: boolean;
}

export const CONFIG_FLAG = "--config";
export const CONFIG_VARIABLE = "OPLOG_CONFIG";

/**
 * Kubernetes describes a Service named "oplog…" to every pod by variables like OPLOG_PORT_7450_TCP_ADDR and
 * OPLOG_SIDECAR_SERVICE_HOST. They are nobody's mistake.
 */
const SERVICE_LINK =
  /^OPLOG_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$/;

const keyByName = new Map(optionKeys.map((key) => [optionTable[key].name, key]));
const keyByFlag = new Map(optionKeys.map((key) => [flagOf(optionTable[key].name), key]));
const keyByVariable = new Map(optionKeys.map((key) => [environmentVariableOf(optionTable[key].name), key]));

export function readFlags(argv: readonly string[]): FlagReading {
  const { tokens } = parseArgs({ args: [...argv], options: flagTypes, strict: false, tokens: true });
  const texts = new Map<string, string[]>();
  const problems: string[] = [];
  let wordOfUnknownFlag = -1;
  for (const token of tokens) {
    if (token.kind === "option-terminator") continue;
    if (token.kind === "positional") {
      // What follows an unknown flag is most likely its value, and one message is enough for both.
      if (token.index !== wordOfUnknownFlag) problems.push(`${token.value}: unexpected; options start with --`);
      continue;
    }
    const flag = longFlag(token.rawName);
    const negated =
      flag.startsWith("--no-") && token.value === undefined ? `--${flag.slice("--no-".length)}` : undefined;
    const name = negated !== undefined && isSwitch(negated) ? negated : flag;
    if (!isSwitch(name) && !takesValue(name)) {
      problems.push(`${token.rawName}: unknown option${suggestion(flag, [...keyByFlag.keys(), ...OWN_FLAGS])}`);
      wordOfUnknownFlag = token.index + 1;
    } else if (
      takesValue(name) &&
      (token.value === undefined || (!token.inlineValue && token.value.startsWith("--")))
    ) {
      problems.push(`${token.rawName}: a value is missing`);
    } else {
      const text = name === negated ? "false" : (token.value ?? "true");
      texts.set(name, [...(texts.get(name) ?? []), text]);
    }
  }
  const given: Given[] = [];
  for (const [flag, values] of texts) {
    const key = keyByFlag.get(flag);
    if (values.length > 1 && !(key !== undefined && optionTable[key].kind.isList)) {
      problems.push(`${flag}: given ${values.length} times`);
    } else if (key !== undefined) {
      given.push({ key, source: flag, texts: optionTable[key].kind.isList ? values.flatMap(splitList) : values });
    }
  }
  return {
    given,
    problems,
    configFile: texts.get(CONFIG_FLAG)?.[0],
    wantsHelp: texts.has("--help"),
    wantsVersion: texts.has("--version"),
    wantsPrint: texts.has("--print-config"),
  };
}

/** An empty variable counts as not set, since that is all that many launchers can say, unless its option refuses that. */
export function readEnvironment(env: Readonly<Record<string, string | undefined>>): Reading {
  const given: Given[] = [];
  const problems: string[] = [];
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith("OPLOG_") || name === CONFIG_VARIABLE || value === undefined) continue;
    const key = keyByVariable.get(name);
    if (value === "" && (key === undefined || refusesEmpty(key) === undefined)) continue;
    if (key !== undefined) {
      given.push({ key, source: name, texts: optionTable[key].kind.isList ? splitList(value) : [value] });
    } else if (!SERVICE_LINK.test(name)) {
      problems.push(`${name}: unknown variable${suggestion(name, [...keyByVariable.keys(), CONFIG_VARIABLE])}`);
    }
  }
  return { given, problems };
}

export function readYaml(path: string, content: string): Reading {
  const lines = new LineCounter();
  const document = parseDocument(content, { lineCounter: lines });
  const at = (offset: number) => `${path}:${lines.linePos(offset).line}:${lines.linePos(offset).col}`;
  const problems = document.errors.map((error) => `${at(error.pos[0])}: ${error.message.split(/ at line |\n/, 1)[0]}`);
  const given = new Map<OptionKey, Given>();
  if (problems.length === 0 && document.contents !== null) walk(document.contents, "");
  return { given: [...given.values()], problems };

  function walk(node: Node, name: string): void {
    const key = keyByName.get(name);
    const position = at((node.range as Range)[0]);
    const source = `${position} (${name})`;
    if (isAlias(node)) {
      const target = node.resolve(document);
      if (target === undefined) problems.push(`${source}: unresolved alias`);
      else walk(target, name);
    } else if (isMap(node) && key === undefined) {
      for (const pair of node.items) {
        const keyNode = pair.key as Node;
        const part = isScalar(keyNode) ? String(keyNode.value) : "?";
        const child = name === "" ? part : `${name}.${part}`;
        if (isKnown(child) && pair.value !== null) walk(pair.value as Node, child);
        else if (isKnown(child)) problems.push(`${at((keyNode.range as Range)[0])} (${child}): a value is missing`);
        else
          problems.push(
            `${at((keyNode.range as Range)[0])}: unknown option ${child}${suggestion(child, [...keyByName.keys()])}`,
          );
      }
    } else if (key === undefined) {
      problems.push(name === "" ? `${position}: a mapping of options is wanted` : `${source}: is a group of options`);
    } else if (given.has(key)) {
      problems.push(`${source}: given twice, first at ${given.get(key)!.source}`);
    } else {
      const texts = textsOf(node, optionTable[key].kind.isList === true);
      if (texts === undefined) problems.push(`${source}: a value is missing, or is no plain value`);
      else given.set(key, { key, source, texts });
    }
  }
}

const OWN_FLAGS = [CONFIG_FLAG, "--help", "--version", "--print-config"];
const OWN_SWITCHES = OWN_FLAGS.slice(1);

const flagTypes = Object.fromEntries([
  ...optionKeys.map((key): [string, { type: "string" | "boolean" }] => {
    const { name, kind } = optionTable[key];
    return [flagOf(name).slice(2), { type: kind.isSwitch ? "boolean" : "string" }];
  }),
  [CONFIG_FLAG.slice(2), { type: "string" as const }],
  ...OWN_SWITCHES.map((flag): [string, { type: "boolean" }] => [flag.slice(2), { type: "boolean" }]),
]);

function longFlag(rawName: string): string {
  return rawName === "-h" ? "--help" : rawName === "-V" ? "--version" : rawName;
}

function isSwitch(flag: string): boolean {
  const key = keyByFlag.get(flag);
  return OWN_SWITCHES.includes(flag) || (key !== undefined && optionTable[key].kind.isSwitch === true);
}

function takesValue(flag: string): boolean {
  return flag === CONFIG_FLAG || (keyByFlag.has(flag) && !isSwitch(flag));
}

function isKnown(name: string): boolean {
  return keyByName.has(name) || [...keyByName.keys()].some((known) => known.startsWith(`${name}.`));
}

function splitList(value: string): string[] {
  return value === "" ? [] : value.split(",").map((part) => part.trim());
}

/** The text of a plain value as it stands in the file, so that 007 and 1e3 are not rewritten before they are read. */
function textsOf(node: Node, wantsList: boolean): string[] | undefined {
  if (isScalar(node)) {
    if (node.value === null) return undefined;
    const text = node.source ?? String(node.value);
    return wantsList ? splitList(text) : [text];
  }
  if (!isSeq(node) || !wantsList) return undefined;
  const texts = node.items.map((item) =>
    isScalar(item) && item.value !== null ? (item.source ?? String(item.value)) : undefined,
  );
  return texts.every((text) => text !== undefined) ? texts : undefined;
}
