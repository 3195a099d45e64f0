import type { AdoptRequest } from "../gen/oplog/v1/admin_pb.js";

export interface AdminServiceParts {
  /** Takes the store as it is for the right one; resolves to its identity. Rejects with OplogError. */
  readonly adopt: () => Promise<string>;
}

/** What operators decide. */
export class AdminService {
  constructor(private readonly parts: AdminServiceParts) {}

  async adopt(_request: AdoptRequest) {
    return { storeIdentity: await this.parts.adopt() };
  }
}
