import { describe, expect, it } from "vitest";
import { type Config, type ConfigResult, describeConfig, parseConfig } from "../../src/config/config.js";
import { environmentVariableOf, flagOf, optionKeys, optionTable } from "../../src/config/options.js";

interface Given {
  argv?: string[];
  env?: Record<string, string>;
  files?: Record<string, string>;
  hostname?: string;
}

function parse({ argv = [], env = {}, files = {}, hostname = "host-1" }: Given): ConfigResult {
  return parseConfig({
    argv,
    env,
    hostname,
    readFile(path) {
      const content = files[path];
      if (content === undefined) throw new Error("ENOENT: no such file");
      return content;
    },
  });
}

function configOf(given: Given): Config {
  const result = parse(given);
  if (result.kind !== "run") throw new Error(JSON.stringify(result));
  return result.config;
}

function problemsOf(given: Given): readonly string[] {
  const result = parse(given);
  return result.kind === "invalid" ? result.problems : [];
}

function yaml(content: string): Given {
  return { argv: ["--config", "o.yaml"], files: { "o.yaml": content } };
}

describe("the defaults", () => {
  it("serve one machine on loopback", () => {
    const config = configOf({});
    expect(config).toMatchObject({
      sidecarId: "host-1",
      listen: [{ kind: "tcp", host: "127.0.0.1", port: 7450 }],
      adminListen: { kind: "tcp", host: "127.0.0.1", port: 7451 },
      storeKind: "embedded",
      etcdEndpoints: [],
      etcdUsername: undefined,
      appendBytesMax: 1_048_576,
      appendWriteDeadlineMs: 30_000,
      tailHeadPollMs: 1000,
      reflection: true,
    });
    expect(Object.isFrozen(config)).toBe(true);
    expect(Object.isFrozen(config.listen)).toBe(true);
  });

  it("give no option the flag or the variable of another", () => {
    const names = optionKeys.map((key) => optionTable[key].name);
    expect(new Set(names.map(flagOf)).size).toBe(names.length);
    expect(new Set(names.map(environmentVariableOf)).size).toBe(names.length);
  });

  it("complain about a host name that is no sidecar id", () => {
    expect(problemsOf({ hostname: "bad host" })).toEqual([
      'sidecar.id: its default, "bad host", is not accepted: 1 to 128 characters of [A-Za-z0-9_.-]',
    ]);
    expect(configOf({ hostname: "bad host", argv: ["--sidecar-id=a"] }).sidecarId).toBe("a");
  });
});

describe("precedence", () => {
  const files = { "o.yaml": "logs-max: 1\nappend:\n  entries-max: 1\n" };

  it("is default, file, environment, flag", () => {
    const base = { files, env: { OPLOG_CONFIG: "o.yaml" } };
    expect(configOf(base).logsMax).toBe(1);
    expect(configOf({ ...base, env: { ...base.env, OPLOG_LOGS_MAX: "2" } }).logsMax).toBe(2);
    expect(configOf({ ...base, env: { ...base.env, OPLOG_LOGS_MAX: "2" }, argv: ["--logs-max", "3"] }).logsMax).toBe(3);
    expect(configOf({ ...base, argv: ["--logs-max", "3"] }).appendEntriesMax).toBe(1);
  });

  it("replaces lists as a whole", () => {
    const config = configOf({ env: { OPLOG_LISTEN: "a:1,b:2" }, argv: ["--listen", "c:3", "--listen=d:4,e:5"] });
    expect(config.listen.map((address) => address.kind === "tcp" && address.port)).toEqual([3, 4, 5]);
  });

  it("checks values that another source outranks", () => {
    expect(problemsOf({ env: { OPLOG_LOGS_MAX: "many" }, argv: ["--logs-max", "3"] })).toEqual([
      'OPLOG_LOGS_MAX: "many" is not a whole number',
    ]);
  });

  it("takes the file of the flag over that of the environment", () => {
    const given = { files: { a: "logs-max: 7", b: "logs-max: 8" }, env: { OPLOG_CONFIG: "a" }, argv: ["--config=b"] };
    expect(configOf(given).logsMax).toBe(8);
  });
});

describe("values", () => {
  it.each([
    ["--append-bytes-max", "1100000", { appendBytesMax: 1_100_000 }],
    ["--append-queue-bytes-max", "1.5MiB", { appendQueueBytesMax: 1_572_864 }],
    ["--append-queue-bytes-max", "2gib", { appendQueueBytesMax: 2 * 1024 ** 3 }],
    ["--etcd-request-timeout", "500ms", { etcdRequestTimeoutMs: 500 }],
    ["--append-write-deadline", "1.5m", { appendWriteDeadlineMs: 90_000 }],
    ["--admin-listen", "off", { adminListen: undefined }],
    ["--admin-listen", "[::1]:0", { adminListen: { kind: "tcp", host: "::1", port: 0 } }],
    ["--listen", "unix:///run/oplog.sock", { listen: [{ kind: "unix", path: "/run/oplog.sock" }] }],
    ["--etcd-endpoints", "a:2379,http://b:1/", { etcdEndpoints: ["http://a:2379", "http://b:1"], storeKind: "etcd" }],
    ["--advertise", "node-1:7450", { advertise: "node-1:7450" }],
    ["--log-level", "debug", { logLevel: "debug" }],
  ])("%s %s is accepted", (flag, text, expected) => {
    expect(configOf({ argv: [flag, text] })).toMatchObject(expected);
  });

  it("objects have a lease where a view is kept", () => {
    const argv = ["--views=orders", "--object-lease-default=24h"];
    expect(configOf({ argv })).toMatchObject({ objectLeaseDefaultMs: 86_400_000, views: ["orders"] });
  });

  it.each([
    ["--append-bytes-max", "4095", '"4095" is below the limit: 4KiB to 1100000'],
    ["--append-bytes-max", "1.1MiB", '"1.1MiB" is above the limit: 4KiB to 1100000'],
    [
      "--append-bytes-max",
      "1MB",
      '"1MB" is not a size: write a number of bytes, or one with a unit like 512KiB, 1.5MiB or 2GiB',
    ],
    ["--tail-head-poll", "5", '"5" is not a duration: write a number with a unit, like 500ms, 5s or 1.5m'],
    ["--tail-head-poll", "2m", '"2m" is above the limit: 50ms to 1m'],
    ["--object-lease-default", "500ms", '"500ms" is below the limit: 1s to 87600h'],
    ["--logs-max", "1e3", '"1e3" is not a whole number'],
    ["--logs-max", "-1", '"-1" is below the limit: 1 to 100000'],
    ["--log-level", "loud", '"loud" is not one of trace, debug, info, warn, error'],
    ["--listen", "7450", '"7450" is no address: write host:port, like 127.0.0.1:7450 or [::1]:7450'],
    ["--listen", "a:65536", '"a:65536" has port 65536: 0 to 65535'],
    ["--listen", "unix:///run/a\tb", '"unix:///run/a\\tb" names a socket with control characters'],
    ["--listen", "unix://run/x", '"unix://run/x" is no socket: write unix:///absolute/path'],
    [
      "--listen",
      "a:1,b",
      '"a:1,b" has the element "b", which is no address: write host:port, like 127.0.0.1:7450 or [::1]:7450',
    ],
    ["--listen", "", "--listen: at least one address is needed"],
    ["--advertise", "0.0.0.0:7450", '"0.0.0.0:7450" cannot be connected to: name this machine and a port'],
    ["--advertise", "a:0", '"a:0" cannot be connected to: name this machine and a port'],
    ["--key-prefix", "/a/", '"/a/" is no prefix: one or more of "/" and [A-Za-z0-9_.-], no "/" at the end'],
    ["--data-dir", "", '"" names no directory'],
    ["--etcd-endpoints", "", '"" names no endpoint'],
    ["--etcd-endpoints", " ", '"" is no address'],
    ["--etcd-endpoints", ",", '"," has the element "", which is no address'],
    [
      "--etcd-endpoints",
      "http://u:p@a:1",
      '"http://u:p@a:1" carries credentials: they belong into etcd.username and etcd.password-file',
    ],
    ["--reflection", "maybe", '"maybe" is neither true nor false'],
    ["--etcd-ca-file", "/nope", 'cannot read "/nope": ENOENT: no such file'],
  ])("%s=%s is refused", (flag, text, problem) => {
    expect(problemsOf({ argv: [`${flag}=${text}`] }).join("\n")).toContain(problem);
  });

  it("switches are flags without a value", () => {
    expect(configOf({ argv: ["--no-reflection"] }).reflection).toBe(false);
    expect(configOf({ argv: ["--reflection"], env: { OPLOG_REFLECTION: "false" } }).reflection).toBe(true);
    expect(problemsOf({ argv: ["--no-listen"] })[0]).toContain("--no-listen: unknown option");
  });
});

describe("flags", () => {
  it.each([
    [["--lissten", "a:1"], ["--lissten: unknown option; did you mean --listen?"]],
    [["--apend-bytes", "1"], ["--apend-bytes: unknown option; did you mean --append-bytes-max?"]],
    [["-x"], ["-x: unknown option"]],
    [["--zzzzzzzzzz"], ["--zzzzzzzzzz: unknown option"]],
    [["stray"], ["stray: unexpected; options start with --"]],
    [["--data-dir"], ["--data-dir: a value is missing"]],
    [["--data-dir", "--reflection"], ["--data-dir: a value is missing"]],
    [["--logs-max", "1", "--logs-max", "2"], ["--logs-max: given 2 times"]],
    [["--config", "none.yaml"], ['--config: cannot read "none.yaml": ENOENT: no such file']],
  ])("%j is refused", (argv, problems) => {
    expect(problemsOf({ argv })).toEqual(problems);
  });
});

describe("the environment", () => {
  it("refuses unknown variables with the nearest name", () => {
    expect(problemsOf({ env: { OPLOG_LOG_LEVLE: "info", PATH: "/bin" } })).toEqual([
      "OPLOG_LOG_LEVLE: unknown variable; did you mean OPLOG_LOG_LEVEL?",
    ]);
  });

  it("takes an empty variable as not set", () => {
    expect(configOf({ env: { OPLOG_LISTEN: "", OPLOG_CONFIG: "", OPLOG_NONSENSE: "" } }).listen).toHaveLength(1);
  });

  it("passes over what Kubernetes says about a Service of that name", () => {
    const env = {
      OPLOG_PORT: "tcp://10.0.0.1:7450",
      OPLOG_SERVICE_PORT_GRPC: "7450",
      OPLOG_SIDECAR_SERVICE_HOST: "10.0.0.1",
      OPLOG_SIDECAR_PORT_7450_TCP_ADDR: "10.0.0.1",
    };
    expect(configOf({ env }).sidecarId).toBe("host-1");
  });
});

describe("the YAML file", () => {
  it("nests by the dots and reads every kind of value", () => {
    const config = configOf(
      yaml(`
sidecar: { id: 007 }
listen:
  - 127.0.0.1:1
  - "[::1]:2"
etcd: { endpoints: "a:1, b:2", request-timeout: 5s }
append:
  bytes-max: 0.5MiB
reflection: false
`),
    );
    expect(config).toMatchObject({
      sidecarId: "007",
      listen: [{ port: 1 }, { port: 2 }],
      etcdEndpoints: ["http://a:1", "http://b:2"],
      etcdRequestTimeoutMs: 5000,
      appendBytesMax: 524_288,
      reflection: false,
    });
    expect(configOf(yaml("")).logsMax).toBe(1000);
  });

  it.each([
    ["append:\n  byte-max: 1\n", "o.yaml:2:3: unknown option append.byte-max; did you mean append.bytes-max?"],
    ["apend: 1\n", "o.yaml:1:1: unknown option apend"],
    ["logs-max: 0\n", 'o.yaml:1:11 (logs-max): "0" is below the limit: 1 to 100000'],
    ["logs-max: 1\nlogs-max: 2\n", "o.yaml:2:1: Map keys must be unique"],
    [
      "append.bytes-max: 4096\nappend: {bytes-max: 4096}\n",
      "o.yaml:2:21 (append.bytes-max): given twice, first at o.yaml:1:19",
    ],
    ["append: 5\n", "o.yaml:1:9 (append): is a group of options"],
    ["- a\n", "o.yaml:1:1: a mapping of options is wanted"],
    ["log:\n  level: [info]\n", "o.yaml:2:10 (log.level): a value is missing, or is no plain value"],
    ["{data-dir}", "o.yaml:1:2 (data-dir): a value is missing"],
    ["data-dir:\n", "(data-dir): a value is missing, or is no plain value"],
    ["listen: [", "o.yaml:1:10: "],
  ])("%j is refused with its place", (content, problem) => {
    expect(problemsOf(yaml(content)).join("\n")).toContain(problem);
  });
});

describe("options that contradict each other", () => {
  const files = { f: "" };
  it.each([
    [
      ["--etcd-endpoints=https://a:1", "--etcd-ca-file=f", "--etcd-cert-file=f"],
      "--etcd-cert-file: needs etcd.key-file, which is not set",
    ],
    [
      ["--etcd-endpoints=https://a:1", "--etcd-ca-file=f", "--etcd-key-file=f"],
      "--etcd-key-file: needs etcd.cert-file, which is not set",
    ],
    [["--etcd-endpoints=a:1", "--etcd-username=u"], "--etcd-username: needs etcd.password-file, which is not set"],
    [["--etcd-ca-file=f"], "--etcd-ca-file: has no effect without etcd.endpoints"],
    [["--object-lease-default=1h"], "--object-lease-default: has no effect without views"],
    [["--etcd-endpoints=a:1", "--etcd-ca-file=f"], "--etcd-endpoints: http://a:1 is not encrypted"],
    [["--etcd-endpoints=https://a:1,b:2", "--etcd-ca-file=f"], "--etcd-endpoints: http://b:2 is not encrypted"],
    [["--etcd-endpoints=https://a:1"], "--etcd-endpoints: https:// needs etcd.ca-file, which is not set"],
    [["--append-queue-bytes-max=4KiB"], "append.bytes-max: 1048576 bytes never fit into append.queue-bytes-max, 4096"],
    [["--listen=127.0.0.1:7451"], "--listen: 127.0.0.1:7451 is named twice among listen and admin.listen"],
  ])("%j are refused", (argv, problem) => {
    const problems = problemsOf({ argv, files });
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(problem);
  });

  it("are not seen in ports that the system chooses", () => {
    expect(configOf({ argv: ["--listen=127.0.0.1:0,127.0.0.1:0", "--admin-listen=127.0.0.1:0"] }).listen).toHaveLength(
      2,
    );
  });
});

describe("the whole", () => {
  it("reports all problems at once", () => {
    const problems = problemsOf({
      argv: ["--config=o.yaml", "--log-level=loud", "--nonsense-flag"],
      env: { OPLOG_NONSENSE: "1", OPLOG_LOGS_MAX: "x" },
      files: { "o.yaml": "bogus: 1\nlogs-max: 0\n" },
    });
    const sources = problems.map((problem) => problem.split(": ")[0]).sort();
    expect(sources).toEqual([
      "--log-level",
      "--nonsense-flag",
      "OPLOG_LOGS_MAX",
      "OPLOG_NONSENSE",
      "o.yaml:1:1",
      "o.yaml:2:11 (logs-max)",
    ]);
  });

  it.each([
    ["a flag", { argv: ["--etcd-endpoints="] }],
    ["a flag that outranks the file", { argv: ["--etcd-endpoints=", "--config=o.yaml"] }],
    ["a variable", { env: { OPLOG_ETCD_ENDPOINTS: "" } }],
    ["a list in the file", yaml("etcd:\n  endpoints: []\n")],
    ["a text in the file", yaml("etcd:\n  endpoints: ''\n")],
  ])("does not take %s without endpoints for a wish to have the embedded store", (_, input) => {
    const files = { "o.yaml": "etcd:\n  endpoints: a:1\n" };
    expect(problemsOf({ files, ...input })).toMatchObject([expect.stringContaining("names no endpoint; without")]);
  });

  /** Of these alone an empty value is taken, and says the same as the default. */
  const EMPTY_IS_NONE = ["views"];

  it("refuses an empty value wherever that would say something else than no value", () => {
    const taken = optionKeys
      .map((key) => optionTable[key].name)
      .filter((name) => parse({ argv: [`${flagOf(name)}=`] }).kind === "run");
    expect(taken).toEqual(EMPTY_IS_NONE);
  });

  it.each([[["--etcd-endpoints=a:1,b:2", "--admin-listen=off", "--no-reflection", "--append-bytes-max=5000"]], [[]]])(
    "prints a configuration that reads back as the same: %j",
    (argv) => {
      const printed = parse({ argv: [...argv, "--print-config"] });
      if (printed.kind !== "print-config") throw new Error(printed.kind);
      expect(configOf(yaml(printed.text))).toEqual(configOf({ argv }));
    },
  );

  it("describes every option by name, and files by their path alone", () => {
    const argv = ["--etcd-endpoints=a:1", "--etcd-username=u", "--etcd-password-file=pw"];
    const described = describeConfig(configOf({ argv, files: { pw: "hunter2" } }));
    expect(Object.keys(described)).toEqual(optionKeys.map((key) => optionTable[key].name));
    expect(described).toMatchObject({ "etcd.password-file": "pw", "append.bytes-max": "1MiB", advertise: "" });
    expect(JSON.stringify(described)).not.toContain("hunter2");
  });

  it.each([
    ["--help", "help"],
    ["-h", "help"],
    ["--version", "version"],
    ["-V", "version"],
  ])("answers %s even beside mistakes", (flag, kind) => {
    expect(parse({ argv: [flag, "--nonsense"] }).kind).toBe(kind);
  });

  it("documents every option with its flag, variable and default in the help", () => {
    const help = parse({ argv: ["--help"] });
    if (help.kind !== "help") throw new Error(help.kind);
    const words = help.text.replaceAll(/\s+/g, " ");
    for (const key of optionKeys) {
      const { name, kind, default: text } = optionTable[key];
      expect(words).toContain(
        kind.isSwitch ? `--[no-]${flagOf(name).slice(2)} ` : `${flagOf(name)} ${kind.placeholder}`,
      );
      expect(words).toContain(`[${environmentVariableOf(name)}]; ${name}`);
      if (text) expect(words).toContain(`default: ${text}`);
    }
    expect(help.text.split("\n").every((line) => line.length <= 120)).toBe(true);
  });
});
