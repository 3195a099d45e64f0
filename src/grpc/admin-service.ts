import type { MessageInitShape } from "@bufbuild/protobuf";
import type { AdoptRequest, DeleteCursorRequest, DeleteCursorResponseSchema } from "../gen/oplog/v1/admin_pb.js";
import type { Logs } from "../log/logs.js";

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
}
