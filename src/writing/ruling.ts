import type { OperationWindow } from "../oplog/operation-window.js";
import { type Barriers, TOO_MANY_BARRIERS } from "./barriers.js";
import type { Question } from "./rulings.js";

export interface Ruling {
  /** To be put; undefined: nothing is. */
  readonly barriers: Uint8Array | undefined;
  /** There was no room to rule these out. */
  readonly refused: ReadonlySet<Question>;
}

/** Notes what is asked about as ruled out. `headMs`: the time of the newest entry. */
export function ruleOut(
  questions: readonly Question[],
  barriers: Barriers,
  window: OperationWindow,
  wallMs: number,
  headMs: number,
): Ruling {
  const refused = new Set<Question>();
  let hasNew = false;
  if (questions.length > 0) barriers.prune((writer) => window.highestOf(writer));
  for (const question of questions) {
    const { writerId, operationId } = question;
    if (operationId <= window.highestOf(writerId)) continue;
    const ruling = barriers.add(writerId, operationId, wallMs, headMs);
    if (ruling === "changed") hasNew = true;
    else if (ruling === "refused") refused.add(question);
  }
  return { barriers: hasNew ? barriers.encode() : undefined, refused };
}

/** To be called once the barriers are durable. */
export function answerAll(questions: readonly Question[], { refused }: Ruling, window: OperationWindow): void {
  for (const question of questions) {
    const { writerId, operationId, settle } = question;
    const answer = window.resolve(writerId, operationId);
    const isUnruled = answer.outcome === "not committed" && refused.has(question);
    settle(isUnruled ? { outcome: "unknown", highest: answer.highest, because: TOO_MANY_BARRIERS } : answer);
  }
}
