import { LeaderClient, type LeaderStep } from "../client/leader-client.js";
import { connectProblem } from "./failures.js";
import { keyText } from "./render.js";
import type { Session } from "./session.js";

/** From the session's target on to whoever leads; tells the person where it goes, and the session where it is. */
export function followLeader(session: Session): LeaderClient {
  let told = "";
  const onStep = (step: LeaderStep) => {
    session.target = step.to;
    const text = keyText(stepText(step));
    // While nothing changes, once is enough.
    if (text !== told) session.note(text);
    told = text;
  };
  return new LeaderClient([session.target], { givesUpUnanswered: true, onStep });
}

function stepText({ from, to, because, waitMs }: LeaderStep): string {
  const { primary, term } = because.metadata;
  if (waitMs === 0) return `${from} does not lead; "${primary ?? ""}" at ${to} claimed term ${term}, going there`;
  return `${from}: ${connectProblem(because.message)}; trying ${to === from ? "again" : to}`;
}
