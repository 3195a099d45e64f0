import { cpSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildExample, buildGrpcurl } from "../interop/builds.js";
import { LANGUAGES, Toolchain } from "../interop/toolchain.js";
import { cloneInto } from "../repository/clean-clone.js";
import { ROOT } from "../repository/source-tree.js";
import { freePort } from "../support/oplogd.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { bareCommand, commandsOf } from "./code-blocks.js";
import { LongRunning, Shell } from "./shell.js";

/** In the order in which they are read. */
const DOCUMENTS = ["README.md", "examples/README.md"];

/** Run by whoever runs these tests: CI does the second one, and test/demo runs the demo. */
const RUN_ELSEWHERE = new Set(["npm ci --ignore-scripts && npm run demo", "npm ci --ignore-scripts && npm run check"]);

/** Go on until Ctrl-C, so each has a terminal of its own; with what it prints once it is up. */
const LONG_RUNNING: readonly (readonly [RegExp, RegExp])[] = [
  [/^oplogd( |$)/, /"event":"listening"/],
  [/^oplogctl campaign .* a$/, /^leading/m],
  [/^oplogctl campaign .* b$/, /^waiting/m],
];

interface Expectation {
  /** 0 unless told. */
  readonly exitCodes?: readonly number[];
  readonly output: RegExp;
}

/** Beyond that a command succeeds. */
const EXPECTED: readonly (readonly [RegExp, Expectation])[] = [
  [/OpLogService\/Append$/, { output: /"firstSequenceId": "1"/ }],
  [/OpLogService\/Read$/, { output: /"payload": "aGVsbG8="/ }],
  [/OpLogService\/Subscribe$/, { exitCodes: [64 + 4], output: /"caughtUp"/ }],
  [/^oplogctl append/, { output: /^2$/m }],
  [/^oplogctl tail/, { output: /hello[\s\S]*world/ }],
  [/^oplogctl status/, { output: /^head +2$/m }],
  [/^oplogctl logs/, { output: /^orders +2/m }],
  [/^oplogctl where-parted orders/, { output: /^next +Nothing has parted\./m }],
  [/^oplogctl leader orders/, { output: /claimed by its first append/ }],
  [/^oplogctl leader shards/, { output: /^a at .*elected[\s\S]*b .*waits/ }],
  [/^oplogctl hand-over/, { output: /^b leads, term 2/m }],
  // 3: a candidate cannot be promoted where one leads already.
  [/^oplogctl readiness/, { exitCodes: [0, 3], output: /^phase +promoted/m }],
  [/StandbyService\/GetStateHash$/, { output: /"keys": "2"/ }],
  [/^wait$/, { output: /(?:"received":40000,"hash":"(\w+)"[\s\S]*){3}/ }],
  [/--writer orders --count 1000$/, { output: /"acknowledged":1000,/ }],
  [/^kill \$go; wait \$go$/, { output: /"event":"lost","reason":"RESIGNED"/ }],
];

const toolchain = await Toolchain.probe();
const hasAll =
  LANGUAGES.every((language) => toolchain.has(language)) && toolchain.has("grpcurl") && toolchain.has("etcd");

describe.runIf(hasAll)("the commands of README.md and examples/README.md", () => {
  let temp: TempDir;
  let shell: Shell;
  let env: NodeJS.ProcessEnv;
  const ports = new Map<string, number>();
  const terminals: LongRunning[] = [];

  beforeAll(async () => {
    temp = await makeTempDir("docs");
    cloneInto(temp.path);
    // What test/interop has built from the same sources is as good as built here, and make sees that.
    const options = { recursive: true, preserveTimestamps: true };
    for (const language of LANGUAGES) {
      cpSync(await buildExample(language), join(temp.path, "examples", language), options);
    }
    for (const port of ["7450", "7451", "2379", "2380", "7461", "7462", "7453"]) ports.set(port, await freePort());
    env = environment(ports, dirname(await buildGrpcurl()));
    shell = Shell.open(temp.path, env);
  }, 900_000);

  afterAll(async () => {
    await Promise.allSettled(terminals.map((terminal) => terminal.interrupt()));
    await shell?.close();
    await temp?.remove();
  });

  it("do what the text says, from top to bottom in one go", { timeout: 600_000 }, async () => {
    const left = new Set(EXPECTED.map(([command]) => command));
    let count = 0;
    for (const document of DOCUMENTS) {
      for (const command of commandsOf(document, readFileSync(join(ROOT, document), "utf8"))) {
        const bare = bareCommand(command);
        if (RUN_ELSEWHERE.has(bare)) continue;
        count += 1;
        const typed = withPorts(bare, ports);
        const longRunning = LONG_RUNNING.find(([pattern]) => pattern.test(bare));
        if (longRunning !== undefined) {
          const { output: path } = await shell.run('echo "$PATH"');
          const terminal = LongRunning.start(typed, temp.path, { ...env, PATH: path.trim() });
          terminals.push(terminal);
          await terminal.printed(longRunning[1]);
          continue;
        }
        const [pattern, expectation] = EXPECTED.find(([pattern]) => left.has(pattern) && pattern.test(bare)) ?? [];
        const { exitCode, output } = await shell.run(typed);
        expect(expectation?.exitCodes ?? [0], `${command.place}: ${bare}\n${output}`).toContain(exitCode);
        if (expectation !== undefined) expect(output, command.place).toMatch(expectation.output);
        if (pattern !== undefined) left.delete(pattern);
        if (bare === "wait") expect(new Set(output.match(/"hash":"\w+"/g)).size, output).toBe(1);
      }
    }
    expect([...left], "expected commands that no document has").toEqual([]);
    expect(count).toBeGreaterThan(25);
  });
});

/** The same commands with ports that are free: by the environment, or in the text where a command names them. */
function environment(ports: ReadonlyMap<string, number>, grpcurl: string): NodeJS.ProcessEnv {
  const clean = Object.entries(process.env).filter(([name]) => !/^(OPLOG|ETCD|npm_)/.test(name));
  const at = (port: string) => `127.0.0.1:${ports.get(port)}`;
  return {
    ...Object.fromEntries(clean),
    PATH: `${grpcurl}:${process.env.PATH}`,
    OPLOG_LISTEN: at("7450"),
    OPLOG_ADMIN_LISTEN: at("7451"),
    OPLOGCTL_TARGET: at("7450"),
    ETCD_LISTEN_CLIENT_URLS: `http://${at("2379")}`,
    ETCD_ADVERTISE_CLIENT_URLS: `http://${at("2379")}`,
    ETCD_LISTEN_PEER_URLS: `http://${at("2380")}`,
    ETCD_INITIAL_ADVERTISE_PEER_URLS: `http://${at("2380")}`,
    ETCD_INITIAL_CLUSTER: `default=http://${at("2380")}`,
  };
}

function withPorts(command: string, ports: ReadonlyMap<string, number>): string {
  const targeted = command.replace(/^(examples\/\S+)(?!.* --target)/, "$1 --target 127.0.0.1:7450");
  return targeted.replace(/127\.0\.0\.1:(\d+)/g, (address, port) =>
    ports.has(port) ? `127.0.0.1:${ports.get(port)}` : address,
  );
}
