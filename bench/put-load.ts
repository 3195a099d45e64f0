import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { randomPayload } from "./entry-bytes.js";
import type { Measured } from "./generator.js";
import { type Timing, Window } from "./window.js";

export interface PutLoad extends Timing {
  /** The first of them is used. */
  readonly endpoints: string;
  readonly prefix: string;
  readonly inFlight: number;
}

const PUT = "/etcdserverpb.KV/Put";
const KEY_DIGITS = 20;
const PAYLOADS = 64;

/**
 * etcd itself, as fast as this process can drive it: one key per entry, requests put together from bytes, answers not
 * decoded, no retries, no client library but gRPC.
 */
export async function putIntoEtcd(load: PutLoad): Promise<Measured> {
  const client = new Client(addressOf(load.endpoints), credentials.createInsecure());
  const payloads = Array.from({ length: PAYLOADS }, randomPayload);
  const window = new Window(load);
  let number = 0;
  const caller = async () => {
    while (!window.isOver) {
      number++;
      await put(client, putRequest(load.prefix, number, payloads[number % PAYLOADS]!));
      window.add(1);
    }
  };
  await Promise.all(Array.from({ length: load.inFlight }, caller));
  client.close();
  return { entriesPerSecond: window.perSecond };
}

/** etcdserverpb.PutRequest: key = 1, value = 2. */
function putRequest(prefix: string, number: number, value: Buffer): Buffer {
  const bytes = new BinaryWriter()
    .tag(1, WireType.LengthDelimited)
    .string(`${prefix}${String(number).padStart(KEY_DIGITS, "0")}`)
    .tag(2, WireType.LengthDelimited)
    .bytes(value)
    .finish();
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function put(client: Client, request: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(PUT, same, same, request, new Metadata(), {}, (error) =>
      error ? reject(error) : resolve(),
    );
  });
}

function addressOf(endpoints: string): string {
  return endpoints.split(",")[0]!.replace(/^http:\/\//, "");
}

function same(bytes: Buffer): Buffer {
  return bytes;
}
