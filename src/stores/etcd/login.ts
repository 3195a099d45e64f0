import { Metadata, type ServiceError } from "@grpc/grpc-js";
import type { Member } from "./member.js";
import type { EtcdPassword } from "./options.js";

/** What every call carries: that the member must have a leader to answer, and who asks. */
export class Login {
  private token: Promise<Metadata> | undefined;
  private version = 0;

  constructor(
    private readonly username: string | undefined,
    private readonly password: EtcdPassword | undefined,
  ) {}

  get required(): boolean {
    return this.username !== undefined;
  }

  /** The token is good at every member. Rejects with the ServiceError of the login. */
  metadata(member: Member, deadline: number): Promise<Metadata> {
    const version = this.password?.version ?? 0;
    if (version !== this.version) this.token = undefined;
    this.version = version;
    this.token ??= this.authenticate(member, deadline).catch((failure: unknown) => {
      this.token = undefined;
      throw failure;
    });
    return this.token;
  }

  forget(): void {
    this.token = undefined;
  }

  private async authenticate(member: Member, deadline: number): Promise<Metadata> {
    const metadata = new Metadata();
    // Without it a member that is cut off from the others keeps watches open for ever.
    metadata.set("hasleader", "true");
    if (this.username === undefined) return metadata;
    const request = { name: this.username, password: this.password?.read() ?? "" };
    const stub = await member.stub("Auth");
    const token = await new Promise<string>((resolve, reject) => {
      stub.authenticate(request, metadata, { deadline }, (failure: ServiceError | null, response) =>
        failure === null ? resolve(response!.token) : reject(failure),
      );
    });
    metadata.set("token", token);
    return metadata;
  }
}
