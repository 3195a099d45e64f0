import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";
import { campaignText, candidatesText, leaderText } from "../../src/cli/leadership-text.js";
import {
  CampaignResponseSchema,
  GetLeaderResponseSchema,
  LeadershipMode,
  LostReason,
} from "../../src/gen/oplog/v1/leadership_pb.js";

const LEADER = { id: "b", endpoint: "10.0.0.2:7450", term: 4n };
const { AUTO, TOKEN, ELECTED } = LeadershipMode;

function leadership(init: MessageInitShape<typeof GetLeaderResponseSchema>) {
  return create(GetLeaderResponseSchema, init);
}

describe("who leads", () => {
  it.each([
    [{}, "nobody has claimed this log"],
    [{ leader: LEADER, mode: AUTO }, "b at 10.0.0.2:7450, term 4, claimed by its first append"],
    [{ leader: LEADER, mode: TOKEN, token: 7n }, "b at 10.0.0.2:7450, term 4, token 7"],
    [{ leader: LEADER, mode: ELECTED }, "b at 10.0.0.2:7450, term 4, elected"],
    [
      { leader: LEADER, mode: ELECTED, leaseLeft: durationFromMs(3_200) },
      "b at 10.0.0.2:7450, term 4, elected, lease ends in 3.2 s unless renewed",
    ],
    [{ leader: LEADER, mode: ELECTED, preparing: true }, "b at 10.0.0.2:7450, term 4, elected, not ready yet"],
    [
      { leader: LEADER, mode: ELECTED, vacant: true },
      "vacant: nobody leads, the last to do so was b at 10.0.0.2:7450, term 4",
    ],
  ])("%o reads %s", (init, text) => expect(leaderText(leadership(init))).toBe(text));

  it("cannot write to the terminal through its name", () => {
    const text = leaderText(leadership({ leader: { id: "a\u001b[2J", endpoint: "x\ny", term: 1n } }));
    expect(text).toBe("a\\u{1b}[2J at x\\u{a}y, term 1, claimed by its first append");
  });

  it("is marked among the candidates, unless the log is vacant", () => {
    const candidates = [{ id: "a", endpoint: "" }, LEADER].map(({ id, endpoint }) => ({ id, endpoint }));
    expect(candidatesText(leadership({ leader: LEADER, candidates })).join("\n")).toMatch(
      /^ {2}a +- +waits\n {2}b +10\.0\.0\.2:7450 +leads$/m,
    );
    expect(candidatesText(leadership({ leader: LEADER, vacant: true, candidates })).join()).not.toContain("leads");
    const preparing = candidatesText(leadership({ leader: LEADER, candidates, preparing: true })).join("\n");
    expect(preparing).toMatch(/^ {2}a +- +waits\n {2}b +10\.0\.0\.2:7450 +preparing$/m);
  });

  it("has no candidates where nobody is elected, and none is said to stand where nobody does", () => {
    expect(candidatesText(leadership({ leader: LEADER, mode: AUTO }))).toEqual([]);
    expect(candidatesText(leadership({ leader: LEADER, mode: ELECTED, vacant: true }))).toEqual([
      "",
      "candidates  none",
    ]);
  });
});

describe("a message of a campaign", () => {
  const fence = durationFromMs(3);
  it.each<[NonNullable<MessageInitShape<typeof CampaignResponseSchema>["message"]>, string]>([
    [{ case: "waiting", value: { leader: LEADER } }, "waiting: the leader is b at 10.0.0.2:7450, term 4"],
    [{ case: "waiting", value: { leader: {} } }, "waiting: somebody else is about to lead"],
    [
      { case: "prepare", value: { term: 5n, finalSequenceId: 9n } },
      "prepare: every earlier leader is fenced; term 5, everything up to entry 9 must have been applied",
    ],
    [
      { case: "prepare", value: { term: 5n, finalSequenceId: 9n, isHandOver: true } },
      "prepare: the leader hands over; term 5, everything up to entry 9 must have been applied",
    ],
    [
      { case: "leading", value: { term: 5n, nextSequenceId: 10n, times: { fence } } },
      "leading: term 5, the next entry is 10 (fence 3 ms)",
    ],
    [{ case: "leaseRenewed", value: { validForMs: 4_700n } }, "lease renewed: nobody else leads for 4.7 s"],
    [
      { case: "lost", value: { reason: LostReason.FENCED, message: "by c" } },
      "lost: somebody else has claimed a higher term: by c",
    ],
    [
      { case: "lost", value: { reason: LostReason.EXPIRED, message: "the lease has run out" } },
      "lost: the lease has run out",
    ],
    [{ case: "lost", value: { reason: 99 as LostReason } }, "lost: reason 99"],
  ])("%o reads %s", (message, text) => {
    expect(campaignText(create(CampaignResponseSchema, { message }))).toBe(text);
  });
});
