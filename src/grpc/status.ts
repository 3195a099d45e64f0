import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { status as GrpcCode, Metadata, type ServiceError } from "@grpc/grpc-js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { StatusSchema as RpcStatusSchema } from "../gen/google/rpc/status_pb.js";
import { type Status, StatusSchema } from "../gen/oplog/v1/oplog_pb.js";
import { InvalidArgumentError, OplogError } from "../oplog/errors.js";

const DOMAIN = "oplog-sidecar";

/** An error inside a stream. */
export function toStatus(error: OplogError): Status {
  return create(StatusSchema, { code: GrpcCode[error.code], message: error.message, details: detailsOf(error) });
}

/** An error that ends a call. The cause of one that was not expected is for the log, not for the client. */
export function toServiceError(error: unknown): ServiceError {
  if (!(error instanceof OplogError)) {
    return Object.assign(new Error("internal error"), {
      code: GrpcCode.INTERNAL,
      details: "internal error; the log of the sidecar has the cause",
      metadata: new Metadata(),
    });
  }
  const code = GrpcCode[error.code];
  const metadata = new Metadata();
  const rich = create(RpcStatusSchema, { code, message: error.message, details: detailsOf(error) });
  metadata.set("grpc-status-details-bin", Buffer.from(toBinary(RpcStatusSchema, rich)));
  return Object.assign(new Error(error.message), { code, details: error.message, metadata });
}

function detailsOf(error: OplogError) {
  const facts = Object.entries(error.facts).map(([name, value]) => [name, String(value)]);
  const details = [
    pack(ErrorInfoSchema, { reason: error.reason, domain: DOMAIN, metadata: Object.fromEntries(facts) }),
  ];
  if (error.retryAfterMs !== undefined) {
    const seconds = Math.floor(error.retryAfterMs / 1000);
    const nanos = Math.round((error.retryAfterMs - seconds * 1000) * 1e6);
    details.push(pack(RetryInfoSchema, { retryDelay: { seconds: BigInt(seconds), nanos } }));
  }
  if (error instanceof InvalidArgumentError) {
    details.push(pack(BadRequestSchema, { fieldViolations: [{ field: error.field, description: error.message }] }));
  }
  return details;
}

function pack<D extends DescMessage>(schema: D, value: MessageInitShape<D>) {
  return anyPack(schema, create(schema, value));
}
