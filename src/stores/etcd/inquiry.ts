import type { Metadata, ServiceError } from "@grpc/grpc-js";
import type { IStatusResponse } from "etcd3";
import { isSilence, LEADER_CHANGED, type Outcome, unanswered } from "./failures.js";
import type { Member } from "./member.js";
import type { Roster } from "./roster.js";
import { decodeInteger } from "./wire.js";

/** A call that is unanswered for so long has its member asked why, and again as often. */
const ASK_EVERY_MS = 250;
/** For a member to tell its status, which it has in memory. */
export const STATUS_MS_MAX = 750;
export const SILENT = "the member is silent";
/** What a member reports that knows of no leader. */
const NO_LEADER = "0";

/**
 * Finds out which calls will not be answered, by the status of their member. Without it, a call to a member that stands
 * still, or that passed the call on to a leader of etcd that has been lost since, would wait for its deadline.
 *
 * A member is asked once at a time, however many calls want to know.
 */
export class Inquiry {
  private readonly underWay = new Map<Member, Promise<Outcome<IStatusResponse>>>();

  constructor(
    private readonly ask: (member: Member, metadata: Metadata) => Promise<Outcome<IStatusResponse>>,
    private readonly roster: Pick<Roster, "isOne" | "hasReplaced">,
  ) {}

  /** `giveUp` is called, once, with what to fail the call with that was sent when etcd was known to be in that term. */
  begin(member: Member, metadata: Metadata, sentInTerm: bigint, giveUp: (failure: ServiceError) => void): CallInquiry {
    const { roster } = this;
    const inquiry = new CallInquiry(async () => {
      if (roster.hasReplaced(member)) return unanswered(SILENT);
      const { failure, response } = await this.statusOf(member, metadata);
      if (failure !== undefined) {
        // Any other failure tells nothing that the call is not told itself. The only member is waited for.
        const isLeft = !roster.isOne || roster.hasReplaced(member);
        return isSilence(failure) && isLeft ? unanswered(SILENT) : undefined;
      }
      if (response.leader === NO_LEADER) return undefined;
      inquiry.isMemberWell = true;
      return decodeInteger(response.raftTerm) > sentInTerm ? unanswered(LEADER_CHANGED) : undefined;
    }, giveUp);
    return inquiry;
  }

  private statusOf(member: Member, metadata: Metadata): Promise<Outcome<IStatusResponse>> {
    const known = this.underWay.get(member);
    if (known !== undefined) return known;
    const asked = this.ask(member, metadata).finally(() => this.underWay.delete(member));
    this.underWay.set(member, asked);
    return asked;
  }
}

/** About one call, from when it is sent until `end`. */
export class CallInquiry {
  /** It was asked, has answered, and knows of a leader. */
  isMemberWell = false;
  private timer: NodeJS.Timeout | undefined;
  private isOver = false;

  constructor(
    private readonly why: () => Promise<ServiceError | undefined>,
    private readonly giveUp: (failure: ServiceError) => void,
  ) {
    this.askLater();
  }

  end(): void {
    this.isOver = true;
    clearTimeout(this.timer);
  }

  private askLater(): void {
    this.timer = setTimeout(() => this.askNow(), ASK_EVERY_MS);
  }

  private async askNow(): Promise<void> {
    const failure = await this.why();
    if (this.isOver) return;
    if (failure === undefined) return this.askLater();
    this.end();
    this.giveUp(failure);
  }
}
