import { type ChannelOptions, Client, credentials } from "@grpc/grpc-js";

const MEBIBYTE = 1 << 20;

/** Every option that decides how a connection is made, kept and used; what is left out is as good by default. */
const CHANNEL_OPTIONS: ChannelOptions = {
  // Equal channels of one process share a connection otherwise, and with it the quota of streams.
  "grpc.use_local_subchannel_pool": 1,
  // A sidecar is next door; a proxy of the environment is not on the way.
  "grpc.enable_http_proxy": 0,
  // When a pod is replaced its name leads elsewhere; the default is to ask again after 30 s.
  "grpc.dns_min_time_between_resolutions_ms": 1_000,
  // A sidecar that has been restarted is found again within a second or so, not after the default of two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  // A silent sidecar is noticed within 25 s of a call.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.max_receive_message_length": 16 * MEBIBYTE,
  "grpc.max_send_message_length": 16 * MEBIBYTE,
  // Without it a stream gets 64 KiB per round trip.
  "grpc-node.flow_control_window": 4 * MEBIBYTE,
  // Costs time with each call, and nobody is offered it.
  "grpc.enable_channelz": 0,
  // A service config from DNS could ask for retries of appends.
  "grpc.service_config_disable_resolution": 1,
};

/** One connection to a sidecar: "host:port" or "unix:///path". It is made when the first call needs it. */
export function openChannel(target: string): Client {
  return new Client(target, credentials.createInsecure(), CHANNEL_OPTIONS);
}
