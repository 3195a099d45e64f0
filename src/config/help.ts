import { environmentVariableOf, flagOf, type Option, sections } from "./options.js";

const WIDTH = 120;
const INDENT = "  ";

/** The reference of all options; the README points here. */
export function helpText(): string {
  const options = sections.map(({ title, options }) => ({
    title,
    rows: (Object.values(options) as Option<unknown>[]).map((option) => rowOf(option)),
  }));
  const general = {
    title: "General",
    rows: [
      { flag: "--config FILE", lines: ["Read options from a YAML file.", "[OPLOG_CONFIG]"] },
      { flag: "--print-config", lines: ["Check the configuration, print what results as YAML, and exit."] },
      { flag: "-h, --help", lines: ["Print this text and exit."] },
      { flag: "-V, --version", lines: ["Print the version and exit."] },
    ],
  };
  const signals = {
    title: "Signals",
    rows: SIGNALS.map(([flag, text]) => ({ flag, lines: [text] })),
  };
  const groups = [...options, general, signals];
  const column = Math.max(...groups.flatMap(({ rows }) => rows.map(({ flag }) => flag.length))) + INDENT.length + 2;
  const blocks = groups.map(({ title, rows }) =>
    [
      `${title}:`,
      ...rows.flatMap(({ flag, lines }) =>
        lines
          .flatMap((line) => wrap(line, WIDTH - column))
          .map((line, index) => (index === 0 ? `${INDENT}${flag}` : "").padEnd(column) + line),
      ),
    ].join("\n"),
  );
  return `${[INTRODUCTION, ...blocks].join("\n\n")}\n`;
}

const INTRODUCTION = `oplogd gives a stateful process a replicated operation log: it numbers operations without holes, makes them durable,
and delivers them in order to standbys.

Usage: oplogd [options]

Every option can be given as a flag, as the environment variable in brackets, or in the YAML file of --config, where
dots nest (append.bytes-max is bytes-max below append). A flag outranks a variable, a variable outranks the file.
Lists are comma-separated; their flags may be repeated. An empty variable counts as not set.`;

const SIGNALS: readonly (readonly [string, string])[] = [
  [
    "SIGTERM, SIGINT, SIGQUIT",
    "Stop in good order within --shutdown-deadline. A second one, 100 ms later or more: within a second, and leaders " +
      "still resign. A third: at once.",
  ],
  ["SIGHUP", "Read log.level and passwords again. On a terminal: stop, as it has been closed."],
  ["SIGUSR1, SIGUSR2", "Nothing."],
];

function rowOf(option: Option<unknown>): { flag: string; lines: string[] } {
  const { name, kind, help } = option;
  const facts = [`[${environmentVariableOf(name)}]`, name];
  if (kind.accepts !== undefined) facts.push(kind.accepts);
  if (option.default !== undefined) facts.push(`default: ${option.default === "" ? "none" : option.default}`);
  const flag = kind.isSwitch ? flagOf(name).replace("--", "--[no-]") : `${flagOf(name)} ${kind.placeholder}`;
  return { flag, lines: [help, facts.join("; ")] };
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}
