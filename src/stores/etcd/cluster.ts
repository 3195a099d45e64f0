import type { CallOptions, ClientDuplexStream, ClientUnaryCall, Metadata, ServiceError } from "@grpc/grpc-js";
import type { IResponseHeader, IStatusResponse } from "etcd3";
import { type StoreError, StoreRefusedError, StoreReplacedError, StoreUnreachableError } from "../../oplog/kv-store.js";
import { Continuity } from "./continuity.js";
import { Deadline } from "./deadline.js";
import {
  isLeaderChange,
  isMemberFault,
  isServiceError,
  isSilence,
  isTokenFault,
  neverReachedTheStore,
  type Outcome,
  toStoreError,
  unanswered,
} from "./failures.js";
import { type CallInquiry, Inquiry, SILENT, STATUS_MS_MAX } from "./inquiry.js";
import { Login } from "./login.js";
import type { Member, Service, Stubs } from "./member.js";
import type { EtcdOptions } from "./options.js";
import { Roster } from "./roster.js";
import { refuseEtcdVersion } from "./versions.js";
import { decodeInteger } from "./wire.js";

export interface UnaryCall<S extends Service, Response extends Answer> {
  readonly service: S;
  readonly deadlineMs: number;
  /** Whether it may be sent to a second member when the outcome at the first is unknown. */
  readonly repeatable: boolean;
  start(stub: Stubs[S], metadata: Metadata, options: CallOptions, done: Done<Response>): ClientUnaryCall;
}

export interface Answer {
  readonly header: IResponseHeader | null;
}

export type Done<Response> = (failure: ServiceError | null, response?: Response) => void;

export interface Connection<S extends Service> {
  readonly member: Member;
  readonly stub: Stubs[S];
  readonly metadata: Metadata;
}

export interface Opened<Request, Response> {
  readonly member: Member;
  readonly stream: ClientDuplexStream<Request, Response>;
  /** To be begun for a stream that is answered at once. */
  inquire(giveUp: (failure: ServiceError) => void): CallInquiry;
}

/** A status that ends later than this was held up here. */
const STOOD_STILL_MS = 1.2 * STATUS_MS_MAX;
/** For a silent member to answer before it is left. */
const LAST_CHANCE_MS_MIN = 100;

/**
 * The endpoints of one etcd cluster, used one at a time.
 *
 * A call is sent only over an open connection, to a member of an accepted version; before it is sent, the next endpoint is
 * tried. After that a call goes to a second member only if the first provably did not apply it, or if it is repeatable. A
 * member that fails or does not answer is left for the next one, and a call that will not be answered ends before its
 * deadline.
 */
export class Cluster {
  private readonly roster: Roster;
  private readonly login: Login;
  private readonly dialTimeoutMs: number;
  /** Members whose version was accepted. A refused one is asked again, so that an upgrade is noticed. */
  private readonly accepted = new Set<Member>();
  private readonly calls = new Set<ClientUnaryCall>();
  private readonly streams = new Map<{ cancel(): void; destroy(failure: Error): void }, Member>();
  private readonly inquiry: Inquiry;
  private readonly continuity: Continuity;
  /** The data has been replaced by older data: nothing is sent any more. */
  private replaced: StoreReplacedError | undefined;
  /** The highest that has been heard of: it rises with every election in etcd. */
  private raftTerm = 0n;
  private closed = false;

  constructor(options: EtcdOptions) {
    this.roster = new Roster(options);
    this.login = new Login(options.username, options.password);
    this.inquiry = new Inquiry((member, metadata) => this.askStatus(member, metadata), this.roster);
    this.continuity = new Continuity(options.clusterId);
    this.dialTimeoutMs = options.dialTimeoutMs ?? 1_000;
  }

  /** Id of the cluster, in hex; undefined: nobody has answered yet. */
  get identity(): string | undefined {
    return this.continuity.identity;
  }

  async unary<S extends Service, Response extends Answer>(call: UnaryCall<S, Response>): Promise<Response> {
    return (await this.exchange(call)).response;
  }

  /** Asks a member what it is, and judges its version anew. */
  async status(deadlineMs: number): Promise<IStatusResponse> {
    const sentMs = performance.now();
    const { member, response } = await this.exchange(statusCall(deadlineMs));
    this.judge(member, response, sentMs);
    return response;
  }

  /** Runs until it is cancelled, has failed, or the other side ends it. Errors of the stream are ServiceErrors. */
  async stream<S extends Service, Request, Response>(
    service: S,
    deadline: Deadline,
    start: (connection: Connection<S>) => ClientDuplexStream<Request, Response>,
  ): Promise<Opened<Request, Response>> {
    const connection = await this.connect(service, deadline);
    if (this.closed) throw closedError();
    const stream = start(connection);
    this.streams.set(stream, connection.member);
    stream.on("status", () => this.streams.delete(stream));
    // An error reaches whoever reads the stream; one that comes after the last read must not end the process.
    stream.on("error", () => undefined);
    const { member, metadata } = connection;
    const sentInTerm = this.raftTerm;
    return { member, stream, inquire: (giveUp) => this.inquiry.begin(member, metadata, sentInTerm, giveUp) };
  }

  /** Acts on a failure: forgets the token, leaves the member. */
  failed(member: Member, failure: ServiceError, isWell = false): StoreError {
    if (this.closed) return closedError(failure);
    if (isTokenFault(failure.details)) this.login.forget();
    if (isMemberFault(failure) && !isLeaderChange(failure)) this.roster.blame(member, failure.details, isWell);
    return toStoreError(failure, member.address);
  }

  /** A call of the kind that may fail at a member that is well. */
  answered(member: Member): void {
    this.roster.praise(member);
  }

  forgetToken(): void {
    this.login.forget();
  }

  /** Calls and streams that run end with an error. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const call of [...this.calls, ...this.streams.keys()]) call.cancel();
    await this.roster.close();
  }

  private async exchange<S extends Service, Response extends Answer>(
    call: UnaryCall<S, Response>,
  ): Promise<{ member: Member; response: Response }> {
    const deadline = new Deadline(call.deadlineMs);
    for (let attempt = 1; ; attempt++) {
      const connection = await this.connect(call.service, deadline);
      if (this.closed) throw closedError();
      const mayGoElsewhere = attempt === 1 && !this.roster.isOne;
      const shareMs = deadline.remainingMs * (call.repeatable && mayGoElsewhere ? 0.5 : 1);
      const sentMs = performance.now();
      const outcome = await this.send(connection, call, deadline.wallMs(shareMs));
      if (outcome.failure === undefined) {
        this.requireContinuity(connection.member, call, outcome.response, sentMs);
        return { member: connection.member, response: outcome.response };
      }
      const { failure } = outcome;
      const error = this.failed(connection.member, failure);
      const notApplied = call.repeatable ? isMemberFault(failure) : neverReachedTheStore(failure);
      const renewsToken = attempt === 1 && this.login.required && isTokenFault(failure.details);
      const goesElsewhere = mayGoElsewhere || (attempt === 1 && this.roster.hasReplaced(connection.member));
      if (this.closed || !(renewsToken || (goesElsewhere && notApplied))) throw error;
    }
  }

  private send<S extends Service, Response extends Answer>(
    { member, stub, metadata }: Connection<S>,
    call: UnaryCall<S, Response>,
    deadline: number,
  ): Promise<Outcome<Response>> {
    const sentInTerm = this.raftTerm;
    return new Promise((resolve) => {
      let inquiry: CallInquiry | undefined;
      const running = call.start(stub, metadata, { deadline }, (failure, response) => {
        inquiry?.end();
        this.calls.delete(running);
        this.noteAnswer(member, response);
        resolve(failure === null ? { response: response as Response } : { failure });
      });
      this.calls.add(running);
      if (call.service === "Maintenance") return;
      inquiry = this.inquiry.begin(member, metadata, sentInTerm, (failure) => {
        resolve({ failure });
        running.cancel();
      });
    });
  }

  /** What another store has answered, or has done, is nothing of ours. */
  private requireContinuity<S extends Service, Response extends Answer>(
    member: Member,
    call: UnaryCall<S, Response>,
    { header }: Response,
    sentMs: number,
  ): void {
    if (header === null || call.service === "Maintenance") return;
    try {
      this.continuity.note(header, member.address, call.service === "KV" ? sentMs : undefined);
    } catch (error) {
      if (error instanceof StoreReplacedError) this.noteReplaced(member, error);
      throw call.repeatable ? error : new StoreUnreachableError(String(error), { cause: error });
    }
  }

  /** Throws StoreReplacedError: what the watch brings belongs to another store. */
  requireWatched(member: Member, header: IResponseHeader | null): void {
    if (header === null) return;
    try {
      this.continuity.noteWatch(header, member.address);
    } catch (error) {
      if (error instanceof StoreReplacedError) this.noteReplaced(member, error);
      throw error;
    }
  }

  private noteReplaced(member: Member, error: StoreReplacedError): void {
    this.accepted.delete(member);
    if (error.isOlder) this.replaced = error;
  }

  private async askStatus(member: Member, metadata: Metadata): Promise<Outcome<IStatusResponse>> {
    const askedMs = performance.now();
    const outcome = await this.statusOf(member, metadata);
    if (outcome.failure === undefined || !isSilence(outcome.failure)) return outcome;
    // Then the answer may be there, and not have been read.
    if (performance.now() - askedMs > STOOD_STILL_MS) return { failure: unanswered("this process stood still") };
    await this.noteSilence(member, metadata);
    return outcome;
  }

  private async statusOf(
    member: Member,
    metadata: Metadata,
    waitMs = STATUS_MS_MAX,
  ): Promise<Outcome<IStatusResponse>> {
    const connection = { member, stub: await member.stub("Maintenance"), metadata };
    if (this.closed) return { failure: unanswered("this store is closed") };
    return this.send(connection, statusCall(waitMs), new Deadline(waitMs).wallMs());
  }

  /** What comes on its streams comes late; whoever reads them opens others, elsewhere. */
  private async noteSilence(silent: Member, metadata: Metadata): Promise<void> {
    this.roster.fellSilent(silent);
    if (this.roster.isOne && !(await this.reconnect(silent, metadata))) return;
    for (const [stream, member] of this.streams) if (member === silent) stream.destroy(unanswered(SILENT));
  }

  /**
   * The only member may stand still, and is waited for then. Or the way to it is dead, and its name leads to another address:
   * it is left if new connections are answered while the old ones are silent still.
   */
  private async reconnect(silent: Member, metadata: Metadata): Promise<boolean> {
    const fresh = this.roster.another(silent);
    if ((await fresh.dial("Maintenance", this.dialTimeoutMs)) === undefined) {
      const askedMs = performance.now();
      const { failure } = await this.statusOf(fresh, metadata);
      if (failure === undefined || !isMemberFault(failure)) {
        // It may have stood still until now.
        await this.statusOf(silent, metadata, Math.max(LAST_CHANCE_MS_MIN, 2 * (performance.now() - askedMs)));
        if (!this.closed && this.roster.replace(silent, fresh)) {
          this.accepted.delete(silent);
          return true;
        }
      }
    }
    await fresh.close();
    return false;
  }

  private noteAnswer(member: Member, answer: Answer | undefined): void {
    if (answer === undefined) return;
    this.roster.heard(member);
    const term = decodeInteger(answer.header?.raft_term ?? "0");
    if (term > this.raftTerm) this.raftTerm = term;
  }

  /** The current member, or the next one that can be reached. Nothing has been sent for the caller when it rejects. */
  private async connect<S extends Service>(service: S, deadline: Deadline): Promise<Connection<S>> {
    if (this.replaced !== undefined) throw this.replaced;
    const problems: string[] = [];
    let refused: StoreRefusedError | undefined;
    for (const member of this.roster.inOrder()) {
      if (this.closed) throw closedError();
      const problem = await this.open(member, service, deadline);
      if (this.closed) throw closedError();
      if (!(problem instanceof Error)) return problem;
      if (problem instanceof StoreRefusedError) refused ??= problem;
      else problems.push(problem.message);
      this.roster.leave(member, problem.message);
    }
    throw refused ?? new StoreUnreachableError(`etcd cannot be reached: ${problems.join("; ")}`);
  }

  private async open<S extends Service>(
    member: Member,
    service: S,
    deadline: Deadline,
  ): Promise<Connection<S> | StoreError> {
    try {
      const obstacle = await member.dial(service, Math.min(this.dialTimeoutMs, deadline.remainingMs));
      if (obstacle !== undefined) return new StoreUnreachableError(`${member.address}: ${obstacle}`);
      const metadata = await this.login.metadata(member, deadline.wallMs());
      if (!this.accepted.has(member)) await this.askVersion(member, metadata, deadline);
      return { member, stub: await member.stub(service), metadata };
    } catch (error) {
      if (this.closed) return closedError(error);
      if (error instanceof StoreRefusedError) return error;
      if (isServiceError(error)) return this.failed(member, error);
      throw error;
    }
  }

  private async askVersion(member: Member, metadata: Metadata, deadline: Deadline): Promise<void> {
    const connection = { member, stub: await member.stub("Maintenance"), metadata };
    const sentMs = performance.now();
    const outcome = await this.send(connection, statusCall(deadline.remainingMs), deadline.wallMs());
    if (outcome.failure !== undefined) throw outcome.failure;
    this.judge(member, outcome.response, sentMs);
  }

  private judge(member: Member, status: IStatusResponse, sentMs: number): void {
    const { version } = status;
    try {
      this.continuity.noteStatus(status, member.address, sentMs);
    } catch (error) {
      if (error instanceof StoreReplacedError) this.noteReplaced(member, error);
      throw error;
    }
    const refusal = refuseEtcdVersion(version);
    if (refusal === undefined) {
      this.accepted.add(member);
      return;
    }
    this.accepted.delete(member);
    throw new StoreRefusedError(`${refusal} (at ${member.address})`);
  }
}

function statusCall(deadlineMs: number): UnaryCall<"Maintenance", IStatusResponse> {
  return {
    service: "Maintenance",
    deadlineMs,
    repeatable: true,
    start: (stub, metadata, options, done) => stub.status({}, metadata, options, done),
  };
}

function closedError(cause?: unknown): StoreUnreachableError {
  return new StoreUnreachableError("this store is closed", { cause });
}
