/** What a person has typed, for the field of the request that an error names: of each command that has such an option. */
export const TYPED_NAMES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  append: {
    expected_sequence_id: "--expect",
    writer_id: "--writer",
    operation_id: "--operation",
    standby_count: "--standbys",
    durability_timeout_ms: "--durability-timeout",
  },
  tail: {
    from_sequence_id: "--from",
    from_time: "--from",
    from_cursor: "--from",
    "filter.key_prefix": "--key-prefix",
    "filter.op_types": "--op",
  },
  read: { from_sequence_id: "--from", max_entries: "--limit" },
  campaign: { "candidate.id": "--id", "candidate.ttl": "--ttl", "candidate.alive_within": "--alive-within" },
  "hand-over": { target: "<candidate>", timeout: "--hold" },
};

/** Names in quotes are not of fields; names of one word are common words but at the start. */
const FIELD_NAMES = /^[a-z]+(?=:)|(?<!["\w.-])[a-z]+(?:[._][a-z]+)+(?!["\w])/g;

/** The message of an error as somebody reads it who knows the options of the command, and not the API. */
export function inTypedNames(message: string, command: string | undefined): string {
  const typed = TYPED_NAMES[command ?? ""] ?? {};
  return message.replace(FIELD_NAMES, (name) => (Object.hasOwn(typed, name) ? typed[name]! : name));
}
