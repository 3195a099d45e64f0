import type { AppendResponse } from "../gen/oplog/v1/oplog_pb.js";
import type { Log } from "../log/log.js";
import type { Logs } from "../log/logs.js";
import type { AppendLimits } from "../oplog/entries.js";
import { type Appended, type AppendOutcome, QueueBudget } from "../writing/append-item.js";
import { type ParsedAppend, parseAppend } from "./append-request.js";
import type { Call } from "./call.js";
import { toAppendResponse } from "./convert.js";
import type { RequestBudget } from "./request-budget.js";

/** Of what requests may hold, so that waiting for standbys does not shut out those that do not. */
const STANDBY_WAIT_SHARE = 0.5;

/** The Append calls of all logs. */
export class UnaryAppends {
  /** Of appends that wait, or will, for standbys: a call keeps its request in memory until it is answered. */
  private readonly standbyWaits: QueueBudget;

  constructor(
    private readonly logs: Logs,
    private readonly limits: AppendLimits,
    { bytesMax, requestsMax }: RequestBudget,
  ) {
    const share = (whole: number) => Math.ceil(whole * STANDBY_WAIT_SHARE);
    this.standbyWaits = new QueueBudget(share(bytesMax), share(requestsMax));
  }

  /** Throws OplogError for what the client is to be told. */
  async append(request: Buffer, call: Call): Promise<AppendResponse> {
    const append = parseAppend(request, this.limits);
    const log = this.logs.get(append.log);
    const { standbys: demand } = append;
    if (demand === undefined) return toAppendResponse(await this.write(log, append, call));
    // Refused before anything is written; once it is, the answer tells what was reached.
    return this.standbyWaits.within("bytes that wait for standbys", request.length, async () => {
      const appended = await this.write(log, append, call);
      const standbyCount = await new Promise<number>((resolve) => {
        const release = log.standbys.wait(appended.last, demand, resolve);
        call.onLeft(release);
      });
      return toAppendResponse(appended, demand, standbyCount);
    });
  }

  private write(log: Log, append: ParsedAppend, call: Call): Promise<Appended> {
    return new Promise<Appended>((resolve, reject) => {
      const settle = (outcome: AppendOutcome) =>
        "error" in outcome ? reject(outcome.error) : resolve(outcome.appended);
      log.append({ ...append, isAbandoned: () => call.hasLeft, settle }).catch(reject);
    });
  }
}
