import { Deadline } from "./deadline.js";
import { Member } from "./member.js";
import type { EtcdOptions } from "./options.js";

/** How long a silent member is not gone to while there is another. */
const AVOIDED_MS = 10_000;
/** While none is of use, one after the other is left, many times a second. */
const TELL_LEFT_EVERY_MS = 1_000;

/** The members of a cluster, and which of them is gone to: one at a time, until it is left for the next. */
export class Roster {
  private readonly members: Member[];
  private current = 0;
  /** Well, and has not answered the last of the calls that may fail at such a member. */
  private doubted: Member | undefined;
  /** Members that did not tell their status and have answered nothing since, and until when they are avoided. */
  private readonly silent = new Map<Member, Deadline>();
  /** Of members that have been left: until when it is not told again. */
  private readonly toldLeft = new Map<Member, Deadline>();

  constructor(private readonly options: Pick<EtcdOptions, "endpoints" | "tls" | "logger">) {
    if (options.endpoints.length === 0) throw new Error("etcd needs at least one endpoint");
    this.members = options.endpoints.map((address) => new Member(address, options.tls));
  }

  /** There is no other to go to. */
  get isOne(): boolean {
    return this.members.length === 1;
  }

  /** The current one first, then in the order in which they are gone to. */
  inOrder(): Member[] {
    return [this.members[this.current]!, ...this.others()];
  }

  /** A member that otherwise `isWell` is left when it fails a second time: the path of the call to it may be broken. */
  blame(member: Member, because: string, isWell: boolean): void {
    if (isWell && this.doubted !== member) this.doubted = member;
    else this.leave(member, because);
  }

  /** It has answered a call that may fail at a member that is well. */
  praise(member: Member): void {
    if (this.doubted === member) this.doubted = undefined;
  }

  fellSilent(member: Member): void {
    this.silent.set(member, new Deadline(AVOIDED_MS));
  }

  heard(member: Member): void {
    this.silent.delete(member);
  }

  leave(member: Member, because: string): void {
    if (this.isOne || this.members[this.current] !== member) return;
    const next = this.others()[0]!;
    this.current = this.members.indexOf(next);
    this.doubted = undefined;
    if ((this.toldLeft.get(member)?.remainingMs ?? 0) > 0) return;
    this.toldLeft.set(member, new Deadline(TELL_LEFT_EVERY_MS));
    this.options.logger?.warn(
      { event: "etcd.member_left", member: member.address, next: next.address, because },
      "leaving an etcd member for the next one",
    );
  }

  /** The same member, over connections of its own. */
  another({ address }: Member): Member {
    return new Member(address, this.options.tls);
  }

  /** False: the member has been heard since it fell silent, or has been replaced before. */
  replace(member: Member, fresh: Member): boolean {
    const index = this.members.indexOf(member);
    if (index < 0 || !this.silent.delete(member)) return false;
    this.members[index] = fresh;
    // Whoever is about to use it does so first.
    setImmediate(() => void member.close());
    this.options.logger?.warn(
      { event: "etcd.reconnected", member: member.address },
      "the connections to etcd were silent while a new one was answered; leaving them",
    );
    return true;
  }

  hasReplaced(member: Member): boolean {
    return !this.members.includes(member);
  }

  async close(): Promise<void> {
    await Promise.all(this.members.map((member) => member.close()));
  }

  private others(): Member[] {
    const others = [...this.members.slice(this.current + 1), ...this.members.slice(0, this.current)];
    const avoidedMs = (other: Member) => this.silent.get(other)?.remainingMs ?? 0;
    return others.toSorted((a, b) => avoidedMs(a) - avoidedMs(b));
  }
}
