import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildGrpcurl } from "./builds.js";
import { grpcurl } from "./grpcurl.js";
import { Sidecar } from "./sidecar.js";
import { Toolchain } from "./toolchain.js";

const BUILD_MS_MAX = 600_000;

const toolchain = await Toolchain.probe();

describe.runIf(toolchain.has("grpcurl"))("grpcurl, with nothing but the address", () => {
  let binary: string;
  let sidecar: Sidecar;

  beforeAll(async () => {
    binary = await buildGrpcurl();
    sidecar = await Sidecar.start("embedded");
  }, BUILD_MS_MAX);

  afterAll(() => sidecar?.stop());

  it("lists the services, over TCP and a unix socket", async () => {
    const { output } = await grpcurl(binary, [sidecar.tcpTarget, "list"]);
    const services = ["grpc.health.v1.Health", "oplog.v1.OpLogService", "oplog.v1.StandbyService"];
    expect(output.split("\n")).toEqual(expect.arrayContaining(services));
    const overUnix = await grpcurl(binary, [sidecar.unixTarget, "list"]);
    expect(overUnix).toEqual({ exitCode: 0, output, errors: "" });
  });

  it("describes services and messages", async () => {
    const service = await grpcurl(binary, [sidecar.tcpTarget, "describe", "oplog.v1.OpLogService"]);
    expect(service.output).toContain("rpc Append ( .oplog.v1.AppendRequest ) returns ( .oplog.v1.AppendResponse );");
    expect(service.output).toContain(
      "rpc AppendStream ( stream .oplog.v1.AppendStreamRequest ) returns ( stream .oplog.v1.AppendStreamResponse );",
    );
    const entry = await grpcurl(binary, [sidecar.tcpTarget, "describe", "oplog.v1.Entry"]);
    expect(entry.output).toContain("optional fixed32 checksum = 8;");
  });

  it("appends an entry, reads it, and follows the log", async () => {
    const entry = { opType: "OP_TYPE_PUT_END", key: "greeting", payload: Buffer.from("hello").toString("base64") };
    const appended = await call("Append", { log: "curl", entries: [entry] });
    expect(JSON.parse(appended.output)).toMatchObject({ firstSequenceId: "1", lastSequenceId: "1" });

    const read = await call("Read", { log: "curl" });
    expect(JSON.parse(read.output)).toMatchObject({
      entries: [{ sequenceId: "1", ...entry }],
      nextSequenceId: "2",
      headSequenceId: "1",
    });

    const followed = await call("Subscribe", { log: "curl", fromBeginning: true }, /"caughtUp"/);
    expect(followed.output).toContain('"heartbeat"');
    expect(followed.output).toContain('"key": "greeting"');
  });

  it("shows an error with its details", async () => {
    const entries = [{ opType: "OP_TYPE_REMOVE", key: "greeting" }];
    const { exitCode, errors } = await call("Append", { log: "no/such name", entries });
    expect(exitCode).toBe(64 + 3);
    expect(errors).toContain("Code: InvalidArgument");
    expect(errors).toContain('"@type": "type.googleapis.com/google.rpc.ErrorInfo"');
    expect(errors).toContain('"domain": "oplog-sidecar"');
    expect(errors).toContain('"reason": "INVALID_ARGUMENT"');
    expect(errors).toContain('"field": "log"');
    expect(errors).toContain('"@type": "type.googleapis.com/google.rpc.BadRequest"');
  });

  it.each(["", "oplog.v1.OpLogService"])("asks for the health of %j", async (service) => {
    const args = ["-d", JSON.stringify({ service }), sidecar.tcpTarget, "grpc.health.v1.Health/Check"];
    const { output, errors } = await grpcurl(binary, args);
    expect(errors).toBe("");
    expect(JSON.parse(output)).toEqual({ status: "SERVING" });
  });

  const call = (method: string, request: object, until?: RegExp) =>
    grpcurl(binary, ["-d", JSON.stringify(request), sidecar.tcpTarget, `oplog.v1.OpLogService/${method}`], until);
});
