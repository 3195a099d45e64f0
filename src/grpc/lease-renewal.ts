import type { RenewObjectLeasesRequest } from "../gen/oplog/v1/standby_pb.js";
import { KEY_BYTES_MAX, LEASE_MS_MAX } from "../oplog/entries.js";
import { InvalidArgumentError } from "../oplog/errors.js";
import { StaleTermError } from "../oplog/leadership-errors.js";
import { NoObjectLeasesError, ViewBehindError } from "../oplog/log-errors.js";
import type { LogView } from "../standby/log-view.js";
import { durationMs } from "./convert.js";

const KEYS_MAX = 10_000;
/** How long the view may take to apply what has been acknowledged. */
const APPLY_MS_MAX = 1000;

/**
 * Renews leases at the sidecar that leads, under the term that `leadingTerm` tells, or rejects with who leads. All that was
 * acknowledged before the call counts. Returns the keys that are not held. Throws OplogError.
 */
export async function renewObjectLeases(
  view: LogView,
  request: RenewObjectLeasesRequest,
  leadingTerm: () => Promise<bigint>,
  signal: AbortSignal,
): Promise<string[]> {
  const defaultMs = view.leaseDefaultMs;
  if (defaultMs === undefined) throw new NoObjectLeasesError(view.name);
  requireKeys(request.keys);
  const leaseMs = durationMs("lease", request.lease, defaultMs, 1, LEASE_MS_MAX);
  requireTerm(request.term, await leadingTerm());
  const { head } = view;
  if (!(await view.awaitApplied(Number(head), signal, APPLY_MS_MAX))) {
    throw new ViewBehindError(view.name, view.applied, head);
  }
  requireTerm(request.term, await leadingTerm());
  return view.reader.renewLeases(request.keys, leaseMs);
}

/** Throws InvalidArgumentError. `field`: as it is to be named. */
export function requireKey(field: string, key: Buffer): Buffer {
  if (key.length > 0 && key.length <= KEY_BYTES_MAX) return key;
  throw new InvalidArgumentError(field, `${key.length} bytes; 1 to ${KEY_BYTES_MAX} are allowed`, {
    received: key.length,
    limit: KEY_BYTES_MAX,
  });
}

function requireKeys(keys: readonly string[]): void {
  if (keys.length === 0 || keys.length > KEYS_MAX) {
    throw new InvalidArgumentError("keys", `${keys.length} keys; 1 to ${KEYS_MAX} are allowed`, {
      received: keys.length,
      limit: KEYS_MAX,
    });
  }
  for (const [index, key] of keys.entries()) requireKey(`keys[${index}]`, Buffer.from(key));
}

function requireTerm(term: bigint | undefined, current: bigint): void {
  if (term !== undefined && term !== current) throw new StaleTermError(term, current);
}
