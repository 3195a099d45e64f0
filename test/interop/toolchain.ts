import { execFile } from "node:child_process";
import { promisify } from "node:util";

export const LANGUAGES = ["go", "cpp", "python"] as const;
export type Language = (typeof LANGUAGES)[number];

/** The interpreter that examples/python/standby.py names in its first line. */
const PYTHON = "/usr/bin/python3";

const NEEDS: Record<Language | "grpcurl" | "etcd", readonly string[]> = {
  go: ["flock", "make", "protoc", "go"],
  cpp: [
    "flock",
    "make",
    "protoc",
    "g++",
    "grpc_cpp_plugin",
    "pkg-config",
    "grpc++ (libgrpc++-dev)",
    "libcrypto (libssl-dev)",
  ],
  python: ["flock", "make", "protoc", "grpc_python_plugin", "grpc for /usr/bin/python3 (python3-grpcio)"],
  grpcurl: ["flock", "go"],
  etcd: ["etcd"],
};

const PROBES: Record<string, readonly [string, ...string[]]> = {
  flock: ["flock", "--version"],
  make: ["make", "--version"],
  protoc: ["protoc", "--version"],
  go: ["go", "version"],
  "g++": ["g++", "--version"],
  grpc_cpp_plugin: ["which", "grpc_cpp_plugin"],
  grpc_python_plugin: ["which", "grpc_python_plugin"],
  "pkg-config": ["pkg-config", "--version"],
  "grpc++ (libgrpc++-dev)": ["pkg-config", "--exists", "grpc++"],
  "libcrypto (libssl-dev)": ["pkg-config", "--exists", "libcrypto"],
  "grpc for /usr/bin/python3 (python3-grpcio)": [PYTHON, "-c", "import grpc, google.protobuf"],
  etcd: ["etcd", "--version"],
};

/** What this machine can build and run. */
export class Toolchain {
  private constructor(private readonly missing: readonly string[]) {}

  /** Says which tools are missing: the rest of the tests still run, but where CI is set, none may miss. */
  static async probe(): Promise<Toolchain> {
    const probes = Object.entries(PROBES).map(async ([tool, [command, ...args]]) =>
      promisify(execFile)(command, args).then(
        () => [],
        () => [tool],
      ),
    );
    const toolchain = new Toolchain((await Promise.all(probes)).flat());
    const { complaint } = toolchain;
    if (complaint !== "" && process.env.CI) throw new Error(complaint);
    if (complaint !== "") console.warn(complaint);
    return toolchain;
  }

  has(what: keyof typeof NEEDS): boolean {
    return NEEDS[what].every((tool) => !this.missing.includes(tool));
  }

  get languages(): Language[] {
    return LANGUAGES.filter((language) => this.has(language));
  }

  /** What is not tested for want of what. */
  get complaint(): string {
    const lacking = Object.entries(NEEDS).map(([what, tools]) => {
      const without = tools.filter((tool) => this.missing.includes(tool));
      return without.length === 0 ? [] : [`${what} is not tested, missing: ${without.join(", ")}`];
    });
    return lacking.flat().join("\n");
  }
}
