import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parse as parseYaml } from "yaml";
import { parseConfig } from "../../src/config/config.js";
import { ROOT } from "./source-tree.js";

type Environment = Record<string, string>;

interface Service {
  image?: string;
  build?: string;
  environment: Environment;
  ports?: string[];
  volumes?: string[];
  healthcheck: { test: string[] };
  stop_grace_period?: string;
}

const compose = parseYaml(read("docker-compose.yml"), { merge: true }) as {
  services: Record<string, Service>;
  volumes: Record<string, unknown>;
};
const services = Object.entries(compose.services);
const sidecars = services.filter(([, service]) => service.build !== undefined);
const members = services.filter(([, service]) => service.build === undefined);
const dockerfile = instructionsOf(read("Dockerfile"));
const imageEnvironment = Object.fromEntries(
  argumentsOf("ENV").flatMap((line) => [...line.matchAll(/(\w+)=(\S+)/g)].map(([, name, value]) => [name!, value!])),
) as Environment;

function read(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

function instructionsOf(text: string): { name: string; rest: string }[] {
  const logicalLines = text
    .replaceAll(/^\s*#.*\n/gm, "")
    .replaceAll(/\\\n\s*/g, " ")
    .split("\n");
  return logicalLines
    .filter(Boolean)
    .map((line) => ({ name: line.split(" ", 1)[0]!, rest: line.replace(/^\S+ +/, "") }));
}

function argumentsOf(name: string): string[] {
  return dockerfile.filter((instruction) => instruction.name === name).map(({ rest }) => rest);
}

function configOf(env: Environment) {
  const result = parseConfig({
    argv: [],
    env,
    hostname: "host-1",
    readFile: () => {
      throw new Error("no file is mounted");
    },
  });
  if (result.kind !== "run") throw new Error(JSON.stringify(result));
  return result.config;
}

function portsOf(env: Environment): number[] {
  const { listen, adminListen } = configOf(env);
  return [...listen, adminListen].flatMap((address) => (address?.kind === "tcp" ? [address.port] : []));
}

describe("the image", () => {
  it("is configured by real options, on the default ports, reachable from outside", () => {
    expect(Object.keys(imageEnvironment)).toEqual(expect.arrayContaining(["OPLOG_LISTEN", "OPLOG_ADMIN_LISTEN"]));
    expect(portsOf(imageEnvironment)).toEqual(portsOf({}));
    expect(argumentsOf("EXPOSE")).toEqual([portsOf({}).join(" ")]);
    expect(configOf(imageEnvironment).listen).toMatchObject([{ host: "0.0.0.0" }]);
  });

  it("keeps its data on a volume that its user may write", () => {
    expect(argumentsOf("VOLUME")).toEqual([configOf(imageEnvironment).dataDir]);
    expect(argumentsOf("USER")).toEqual(["nonroot"]);
    expect(argumentsOf("COPY")).toContain("--from=build --chown=nonroot:nonroot /data /data");
  });

  it("is built from files that exist and are sent to the builder", () => {
    const sent = read(".dockerignore")
      .split("\n")
      .filter((line) => line.startsWith("!"));
    const sources = argumentsOf("COPY")
      .filter((rest) => !rest.startsWith("--from"))
      .flatMap((rest) => rest.split(" ").slice(0, -1))
      .map((source) => source.replace(/^\.\//, ""));
    expect(sources.length).toBeGreaterThan(4);
    expect(sources.filter((source) => !existsSync(join(ROOT, source)))).toEqual([]);
    expect(new Set(sent.map((line) => line.slice(1)))).toEqual(new Set(sources));
  });

  it("builds and starts what package.json names", () => {
    const manifest = JSON.parse(read("package.json")) as { bin: Environment; scripts: Environment };
    const entry = JSON.parse(argumentsOf("ENTRYPOINT")[0]!) as string[];
    expect(entry.at(-1)).toBe(manifest.bin.oplogd);
    const scripts = argumentsOf("RUN").flatMap((line) =>
      [...line.matchAll(/npm run (\S+)/g)].map(([, script]) => script!),
    );
    expect(scripts).toEqual(["build"]);
    expect(manifest.scripts).toHaveProperty("build");
  });
});

describe("the compose file", () => {
  it("has three members of etcd that know each other", () => {
    expect(members.map(([name]) => name)).toEqual(["etcd-1", "etcd-2", "etcd-3"]);
    for (const [name, { environment, volumes }] of members) {
      expect(environment.ETCD_NAME).toBe(name);
      expect(environment.ETCD_ADVERTISE_CLIENT_URLS).toBe(`http://${name}:2379`);
      expect(environment.ETCD_INITIAL_CLUSTER).toContain(`${name}=${environment.ETCD_INITIAL_ADVERTISE_PEER_URLS}`);
      expect(compose.volumes).toHaveProperty([volumes![0]!.split(":")[0]!]);
    }
  });

  it("runs the etcd that the tests run", () => {
    const tested = /go\.etcd\.io\/etcd\/server\/v3 (v[\d.]+)/.exec(read("tools/go.mod"))?.[1];
    expect(new Set(members.map(([, { image }]) => image))).toEqual(new Set([`quay.io/coreos/etcd:${tested}`]));
  });

  it("has two sidecars on that cluster, configured by real options", () => {
    expect(sidecars).toHaveLength(2);
    const configs = sidecars.map(([, { environment }]) => configOf({ ...imageEnvironment, ...environment }));
    const urls = members.map(([, { environment }]) => environment.ETCD_ADVERTISE_CLIENT_URLS);
    for (const [index, [name]] of sidecars.entries()) {
      expect(configs[index]).toMatchObject({ etcdEndpoints: urls, sidecarId: name, advertise: `${name}:7450` });
    }
  });

  it("publishes their default ports, on loopback, each once", () => {
    const published = sidecars.flatMap(([, { ports }]) => ports!.map((port) => port.split(":")));
    expect(published.map(([host]) => host)).toEqual(published.map(() => "127.0.0.1"));
    expect(new Set(published.map(([, port]) => port)).size).toBe(published.length);
    for (const [, { ports }] of sidecars) {
      expect(ports!.map((port) => Number(port.split(":")[2]))).toEqual(portsOf(imageEnvironment));
    }
  });

  it("asks for readiness with what the image holds", () => {
    const [interpreter] = JSON.parse(argumentsOf("ENTRYPOINT")[0]!) as string[];
    for (const [, { healthcheck, stop_grace_period }] of sidecars) {
      const [how, command, , script] = healthcheck.test;
      expect([how, command]).toEqual(["CMD", interpreter]);
      expect(script).toContain(`http://127.0.0.1:${portsOf(imageEnvironment)[1]}/readyz`);
      expect(() => new Function(script!)).not.toThrow();
      expect(Number.parseInt(stop_grace_period!, 10) * 1000).toBeGreaterThan(configOf({}).shutdownDeadlineMs);
    }
  });
});
