import { Server, ServerCredentials, type ServiceDefinition, type UntypedServiceImplementation } from "@grpc/grpc-js";

const HOST = "127.0.0.1";

/** Answers status and range and nothing else, as whatever version it is told to be. */
export class FakeEtcd {
  readonly calls = { status: 0, range: 0 };
  readonly leadersAskedFor: unknown[] = [];
  private constructor(
    private readonly server: Server,
    public version: string,
  ) {}

  endpoint = "";

  static async start(version: string): Promise<FakeEtcd> {
    const fake = new FakeEtcd(new Server(), version);
    fake.server.addService(
      method("Maintenance", "Status"),
      fake.answer("status", () => statusResponse(fake.version)),
    );
    fake.server.addService(
      method("KV", "Range"),
      fake.answer("range", () => RANGE_RESPONSE),
    );
    const port = await new Promise<number>((resolve, reject) => {
      fake.server.bindAsync(`${HOST}:0`, ServerCredentials.createInsecure(), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      );
    });
    fake.endpoint = `http://${HOST}:${port}`;
    return fake;
  }

  stop(): void {
    this.server.forceShutdown();
  }

  private answer(call: "status" | "range", response: () => Buffer): UntypedServiceImplementation {
    return {
      [call]: (
        request: { metadata: { get(key: string): unknown[] } },
        done: (error: null, response: Buffer) => void,
      ) => {
        this.calls[call] += 1;
        this.leadersAskedFor.push(...request.metadata.get("hasleader"));
        done(null, response());
      },
    };
  }
}

function method(service: string, name: string): ServiceDefinition {
  const bytes = (value: Buffer): Buffer => value;
  return {
    [name.toLowerCase()]: {
      path: `/etcdserverpb.${service}/${name}`,
      requestStream: false,
      responseStream: false,
      requestSerialize: bytes,
      requestDeserialize: bytes,
      responseSerialize: bytes,
      responseDeserialize: bytes,
    },
  };
}

/** header { revision: 7 } */
const HEADER = [0x0a, 2, 0x18, 7];
const RANGE_RESPONSE = Buffer.from(HEADER);

/** header, and version as field 2. */
function statusResponse(version: string): Buffer {
  return Buffer.from([...HEADER, 0x12, version.length, ...Buffer.from(version)]);
}
