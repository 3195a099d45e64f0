import type { DescMessage } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { buildProgram } from "../../src/cli/program.js";
import { inTypedNames, TYPED_NAMES } from "../../src/cli/typed-names.js";
import { CampaignRequestSchema, HandOverRequestSchema } from "../../src/gen/oplog/v1/leadership_pb.js";
import { AppendRequestSchema, ReadRequestSchema, SubscribeRequestSchema } from "../../src/gen/oplog/v1/oplog_pb.js";

const REQUESTS: Readonly<Record<string, DescMessage>> = {
  append: AppendRequestSchema,
  tail: SubscribeRequestSchema,
  read: ReadRequestSchema,
  campaign: CampaignRequestSchema,
  "hand-over": HandOverRequestSchema,
};

const NAMES = Object.entries(TYPED_NAMES).flatMap(([command, names]) =>
  Object.entries(names).map(([field, typed]) => ({ command, field, typed })),
);

function hasField(message: DescMessage | undefined, path: string): boolean {
  const [name, ...rest] = path.split(".");
  const field = message?.fields.find((each) => each.name === name);
  return rest.length === 0 ? field !== undefined : hasField(field?.message, rest.join("."));
}

describe("what a person has typed for a field", () => {
  it.each(NAMES)("$field of $command is $typed: both exist", ({ command, field, typed }) => {
    const { options, registeredArguments } = buildProgram().commands.find((each) => each.name() === command)!;
    const names = [
      ...options.map(({ long }) => long),
      ...registeredArguments.map((argument) => `<${argument.name()}>`),
    ];
    expect(names).toContain(typed);
    expect(hasField(REQUESTS[command], field)).toBe(true);
  });

  it.each([
    ["campaign", "candidate.ttl: 100 ms; 1000 to 60000 ms are allowed", "--ttl: 100 ms; 1000 to 60000 ms are allowed"],
    ["hand-over", "timeout: 1 ms; 50 to 60000 ms are allowed", "--hold: 1 ms; 50 to 60000 ms are allowed"],
    ["hand-over", 'target: "a b" is no name', '<candidate>: "a b" is no name'],
    [
      "append",
      "operation_id: 0, though writer_id is set; both or none",
      "--operation: 0, though --writer is set; both or none",
    ],
    ["append", "expected_sequence_id is 1, the head is 2", "--expect is 1, the head is 2"],
    ["tail", 'from_cursor: "a b" is no name', '--from: "a b" is no name'],
    ["read", "from_sequence_id: 0", "--from: 0"],
    ["logs", "page_token: no token of this sidecar", "page_token: no token of this sidecar"],
    ["append", 'log "writer_id" is another', 'log "writer_id" is another'],
    ["hand-over", "the target is late: timeout", "the target is late: timeout"],
    ["hand-over", "constructor: none", "constructor: none"],
    [undefined, "candidate.ttl: 100 ms", "candidate.ttl: 100 ms"],
  ])("of %s: %s", (command, message, typed) => {
    expect(inTypedNames(message, command)).toBe(typed);
  });
});
