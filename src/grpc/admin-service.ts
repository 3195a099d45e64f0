import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  AdoptRequest,
  DeleteCursorRequest,
  DeleteCursorResponseSchema,
  DeleteLogRequest,
  DeleteLogResponseSchema,
} from "../gen/oplog/v1/admin_pb.js";
import type { Logs } from "../log/logs.js";
import { InvalidArgumentError } from "../oplog/errors.js";

const LOG_ID_BYTES = 16;

export interface AdminServiceParts {
  readonly logs: Logs;
  /** Accepts the store as it is now; resolves to its identity. Rejects with OplogError. */
  readonly adopt: () => Promise<string>;
}

/** What operators decide. Each method throws OplogError for what the client is to be told. */
export class AdminService {
  constructor(private readonly parts: AdminServiceParts) {}

  async adopt(_request: AdoptRequest) {
    return { storeIdentity: await this.parts.adopt() };
  }

  async deleteCursor(request: DeleteCursorRequest): Promise<MessageInitShape<typeof DeleteCursorResponseSchema>> {
    await this.parts.logs.get(request.log).deleteCursor(request.consumer);
    return {};
  }

  async deleteLog({ log, logId }: DeleteLogRequest): Promise<MessageInitShape<typeof DeleteLogResponseSchema>> {
    if (logId.length !== LOG_ID_BYTES) {
      throw new InvalidArgumentError(
        "log_id",
        `${logId.length} bytes; ${LOG_ID_BYTES} are required, as GetStatus tells`,
        {
          received: logId.length,
          limit: LOG_ID_BYTES,
        },
      );
    }
    await this.parts.logs.get(log).delete(logId);
    return {};
  }
}
