import {
  type CallOptions,
  type ChannelOptions,
  type Client,
  type ClientDuplexStream,
  type ClientUnaryCall,
  connectivityState,
  type Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import { noop } from "cockatiel";
import {
  Etcd3,
  type ILeaseGrantRequest,
  type ILeaseGrantResponse,
  type ILeaseKeepAliveRequest,
  type ILeaseKeepAliveResponse,
  type ILeaseRevokeRequest,
  type ILeaseRevokeResponse,
  type ILeaseTimeToLiveRequest,
  type ILeaseTimeToLiveResponse,
  type IRangeRequest,
  type IRangeResponse,
  type IStatusResponse,
  type ITxnRequest,
  type ITxnResponse,
  type IWatchResponse,
} from "etcd3";
import type { EtcdTls } from "./options.js";

/** The services of etcd that the store uses, as the package's own definitions make them. */
export interface Stubs {
  readonly KV: Client & { range: Unary<IRangeRequest, IRangeResponse>; txn: Unary<ITxnRequest, ITxnResponse> };
  readonly Lease: Client & {
    leaseGrant: Unary<ILeaseGrantRequest, ILeaseGrantResponse>;
    leaseRevoke: Unary<ILeaseRevokeRequest, ILeaseRevokeResponse>;
    leaseTimeToLive: Unary<ILeaseTimeToLiveRequest, ILeaseTimeToLiveResponse>;
    leaseKeepAlive: Duplex<ILeaseKeepAliveRequest, ILeaseKeepAliveResponse>;
  };
  readonly Watch: Client & { watch: Duplex<WatchMessage, IWatchResponse> };
  readonly Maintenance: Client & { status: Unary<object, IStatusResponse> };
  readonly Auth: Client & { authenticate: Unary<{ name: string; password: string }, { token: string }> };
}

export type Service = keyof Stubs;

export type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: CallOptions,
  done: (failure: ServiceError | null, response?: Response) => void,
) => ClientUnaryCall;

export type Duplex<Request, Response> = (
  metadata: Metadata,
  options: CallOptions,
) => ClientDuplexStream<Request, Response>;

export interface WatchMessage {
  readonly create_request: { key: Buffer; range_end: Buffer; start_revision: string; fragment: boolean };
}

/**
 * One etcd endpoint. Each service has a connection of its own, so that a watch that catches up delays neither writes nor
 * the lease.
 *
 * Of the etcd3 package only the stubs are used. Its wrappers retry writes, open circuit breakers, drop the gRPC codes
 * and close the clients of everybody when one stream is cancelled.
 */
export class Member {
  private readonly client: StubSource;
  private readonly kv: StubSource;
  private readonly stubs = new Map<Service, Promise<Stubs[Service]>>();

  constructor(
    readonly address: string,
    tls: EtcdTls | undefined,
  ) {
    if (!ADDRESS.test(address))
      throw new Error(`etcd endpoint ${JSON.stringify(address)} is not like http://host:2379`);
    const source = (grpcOptions: ChannelOptions) =>
      new StubSource({
        hosts: address,
        grpcOptions,
        faultHandling: { global: noop, host: () => noop },
        ...(tls && { credentials: credentials(tls) }),
      });
    this.client = source(CHANNEL_OPTIONS);
    this.kv = source({ ...CHANNEL_OPTIONS, "grpc.max_receive_message_length": READ_BYTES_MAX });
  }

  stub<S extends Service>(service: S): Promise<Stubs[S]> {
    const known = this.stubs.get(service) as Promise<Stubs[S]> | undefined;
    if (known !== undefined) return known;
    const made = (service === "KV" ? this.kv : this.client).stub(service);
    this.stubs.set(service, made);
    return made;
  }

  /** Resolves with undefined once connected, or with what is in the way. Nothing is sent for any caller. */
  async dial(service: Service, waitMs: number): Promise<string | undefined> {
    const stub = await this.stub(service);
    const channel = stub.getChannel();
    const giveUpAt = Date.now() + waitMs;
    for (;;) {
      const state = channel.getConnectivityState(true);
      if (state === connectivityState.READY) return undefined;
      if (state === connectivityState.TRANSIENT_FAILURE) return lastProblem(stub);
      if (state === connectivityState.SHUTDOWN) return "closed";
      const late = await new Promise((resolve) => channel.watchConnectivityState(state, giveUpAt, resolve));
      if (late !== undefined) return `no connection within ${Math.round(waitMs)} ms`;
    }
  }

  async close(): Promise<void> {
    // A stub that could not be made has nothing to close.
    for (const made of await Promise.allSettled(this.stubs.values())) {
      if (made.status === "fulfilled") made.value.close();
    }
    this.client.close();
    this.kv.close();
  }
}

class StubSource extends Etcd3 {
  stub<S extends Service>(service: S): Promise<Stubs[S]> {
    return this.pool.withConnection(service, ({ client }) => client as unknown as Stubs[S]);
  }
}

const ADDRESS = /^(https?:\/\/)?[^/\s]+:\d{1,5}$/;
const RECEIVE_BYTES_MAX = 64 * 1024 * 1024;
/** Of reads: beyond this a smaller page is asked for. A record with its transaction takes less than half of it. */
const READ_BYTES_MAX = 4 * 1024 * 1024;
/** etcd takes no more by default. */
const SEND_BYTES_MAX = 2 * 1024 * 1024;

/** Every option that decides how a connection is made, kept and used; what is left out is as good by default. */
const CHANNEL_OPTIONS: ChannelOptions = {
  // Equal channels of one process share a connection otherwise, and a watch that catches up holds up the lease.
  "grpc.use_local_subchannel_pool": 1,
  // http_proxy and the like are meant for the internet. A proxy has another 127.0.0.1, and may not know the names here.
  "grpc.enable_http_proxy": 0,
  // When a pod is replaced, its name gets another address. With the default of 30 s the leadership would be lost by then.
  "grpc.dns_min_time_between_resolutions_ms": 1_000,
  // A member that has been started again is reached within a second too.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  // A silent peer is noticed within 13 s. etcd answers pings closer than 5 s with GOAWAY.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 3_000,
  "grpc.keepalive_permit_without_calls": 1,
  // A page of history is larger than the 4 MiB of the default.
  "grpc.max_receive_message_length": RECEIVE_BYTES_MAX,
  "grpc.max_send_message_length": SEND_BYTES_MAX,
  // Without it a stream gets 64 KiB per round trip.
  "grpc-node.flow_control_window": 4 * 1024 * 1024,
  // It costs time with each call, and nobody uses it.
  "grpc.enable_channelz": 0,
  // A service config from DNS could ask for retries of writes.
  "grpc.service_config_disable_resolution": 1,
};

function credentials({ ca, cert, key }: EtcdTls) {
  return { rootCertificate: ca, ...(cert && { certChain: cert }), ...(key && { privateKey: key }) };
}

/** What gRPC puts around the reason. */
const WRAPPING = /^No connection established\. Last error: | Resolution note:.*$/gs;

/**
 * The channel tells that it failed, but not why. A call on the channel tells why, and fails before anything is sent. If the
 * connection is made meanwhile, the call is a harmless status request.
 */
function lastProblem(stub: Client): Promise<string | undefined> {
  const bytes = (value: Buffer): Buffer => value;
  return new Promise((resolve) => {
    stub.makeUnaryRequest(
      "/etcdserverpb.Maintenance/Status",
      bytes,
      bytes,
      Buffer.alloc(0),
      { deadline: Date.now() + 250 },
      (failure) => resolve(failure?.details.replace(WRAPPING, "").trim()),
    );
  });
}
