import { createReadStream, existsSync } from "node:fs";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";

/** One request to an LLM service: the blocks of its context, in order. */
export interface TraceRequest {
  readonly hash_ids: readonly number[];
}

export interface Trace {
  readonly requests: readonly TraceRequest[];
  /** For the report. */
  readonly description: string;
}

const TRACE_FILE = join(import.meta.dirname, "../../shared/traces/conversation_trace.jsonl");

/** From `file`, else from the trace that lies beside the repository, else made up with the same shape. */
export async function loadTrace(
  file: string | undefined,
  requestsMax: number,
  besideRepository = TRACE_FILE,
): Promise<Trace> {
  const path = file ?? (existsSync(besideRepository) ? besideRepository : undefined);
  if (path === undefined) {
    const requests = generateRequests(Math.min(requestsMax, GENERATED_REQUESTS));
    return {
      requests,
      description: "generated, in the shape of an hour of a chat service (--trace FILE for a real one)",
    };
  }
  return { requests: await readRequests(path, requestsMax), description: relative("", path) };
}

async function readRequests(path: string, requestsMax: number): Promise<TraceRequest[]> {
  const requests: TraceRequest[] = [];
  for await (const line of createInterface({ input: createReadStream(path), crlfDelay: Infinity })) {
    if (line.trim() === "") continue;
    requests.push(parseRequest(line, `${path}:${requests.length + 1}`));
    if (requests.length >= requestsMax) break;
  }
  if (requests.length === 0) throw new Error(`${path} holds no requests`);
  return requests;
}

function parseRequest(line: string, where: string): TraceRequest {
  const parsed: unknown = JSON.parse(line);
  const ids = typeof parsed === "object" && parsed !== null && "hash_ids" in parsed ? parsed.hash_ids : undefined;
  if (!Array.isArray(ids) || !ids.every((id) => Number.isSafeInteger(id))) {
    throw new Error(`${where}: a request has "hash_ids", a list of whole numbers`);
  }
  return { hash_ids: ids };
}

const GENERATED_REQUESTS = 12_000;
/** What the real trace has: 24 blocks a request on average, half of them 14 or fewer, none above 247. */
const BLOCKS_MEDIAN = 13;
const BLOCKS_SPREAD = 0.95;
const BLOCKS_MAX = 247;
/** About a third of all references are to blocks of an earlier turn. */
const FOLLOW_UP_SHARE = 0.36;
const OPEN_CONVERSATIONS = 2_000;

/** Conversations that begin with the shared block 0 and repeat all of their context with each turn. */
function generateRequests(count: number): TraceRequest[] {
  const random = mulberry32(1);
  const conversations: number[][] = [];
  const requests: TraceRequest[] = [];
  let nextBlock = 1;
  while (requests.length < count) {
    const isFollowUp = conversations.length > 0 && random() < FOLLOW_UP_SHARE;
    const slot = isFollowUp
      ? Math.floor(random() * conversations.length)
      : conversations.length < OPEN_CONVERSATIONS
        ? conversations.length
        : Math.floor(random() * OPEN_CONVERSATIONS);
    const context = isFollowUp ? conversations[slot]! : [0];
    const wanted = Math.ceil(BLOCKS_MEDIAN * Math.exp(BLOCKS_SPREAD * gaussian(random)));
    const added = Math.max(0, Math.min(wanted, BLOCKS_MAX - context.length));
    const blocks = [...context, ...Array.from({ length: added }, () => nextBlock++)];
    conversations[slot] = blocks;
    requests.push({ hash_ids: blocks });
  }
  return requests;
}

function gaussian(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Small, seeded, good enough: the same trace on every machine. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
