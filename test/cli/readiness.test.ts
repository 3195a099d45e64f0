import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";
import { readinessText } from "../../src/cli/readiness.js";
import {
  GetPromotionReadinessResponseSchema,
  PromotionBlockerKind,
  PromotionVerdict,
  StandbyPhase,
} from "../../src/gen/oplog/v1/standby_pb.js";

const textOf = (readiness: MessageInitShape<typeof GetPromotionReadinessResponseSchema>) =>
  readinessText(create(GetPromotionReadinessResponseSchema, readiness));

describe("the text of a readiness", () => {
  it("tells everything in the way, what is missing, and how it came to be so", () => {
    const at = timestampFromMs(1_700_000_000_000);
    const phases = [StandbyPhase.BOOTSTRAPPING, StandbyPhase.FOLLOWING, StandbyPhase.CATCHING_UP];
    const history = [...phases, ...phases].map((phase, index) => ({
      phase,
      at,
      appliedSequenceId: BigInt(index),
      reason: `because of ${index}`,
    }));
    const text = textOf({
      verdict: PromotionVerdict.NOT_PROMOTABLE,
      phase: StandbyPhase.CATCHING_UP,
      appliedSequenceId: 5n,
      headSequenceId: 8n,
      blockers: [{ kind: PromotionBlockerKind.NOT_CAUGHT_UP, message: "applied 5 < head 8" }, { message: "x\u001b" }],
      history,
    });
    expect(text.split("\n")).toEqual([
      "verdict      NOT promotable",
      "phase        catching up",
      "applied      5 (3 entries missing)",
      "head         8",
      "in the way   applied 5 < head 8",
      "             x\\u{1b}",
      "history      2023-11-14T22:13:20.000Z  following at 1: because of 1",
      "             2023-11-14T22:13:20.000Z  catching up at 2: because of 2",
      "             2023-11-14T22:13:20.000Z  bootstrapping at 3: because of 3",
      "             2023-11-14T22:13:20.000Z  following at 4: because of 4",
      "             2023-11-14T22:13:20.000Z  catching up at 5: because of 5",
    ]);
  });

  it.each([
    ["that could not be read", 0n, [PromotionBlockerKind.STORE_UNREACHABLE], "not known"],
    ["that is not that of the view", 0n, [PromotionBlockerKind.HISTORY_DIVERGED], "not known"],
    ["that is damaged", 0n, [PromotionBlockerKind.FAILED], "not known"],
    ["of an empty log", 0n, [], "0"],
    ["of an empty log that somebody leads", 0n, [PromotionBlockerKind.LEASE_HELD], "0"],
    ["that was read though something else was not", 7n, [PromotionBlockerKind.STORE_UNREACHABLE], "7"],
  ])("has a head %s", (_, headSequenceId, kinds, head) => {
    const text = textOf({ headSequenceId, blockers: kinds.map((kind) => ({ kind, message: "m" })) });
    expect(text).toMatch(new RegExp(`^head +${head}$`, "m"));
  });
});
