import { type ChannelOptions, Client, credentials } from "@grpc/grpc-js";

const MEBIBYTE = 1 << 20;

const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.max_receive_message_length": 16 * MEBIBYTE,
  "grpc.max_send_message_length": 16 * MEBIBYTE,
  // Without it a stream gets 64 KiB per round trip.
  "grpc-node.flow_control_window": 4 * MEBIBYTE,
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 5_000,
  // A sidecar that has been restarted is found again within a second or so, not after the default of two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  // Equal channels of one process share a connection otherwise, and with it the quota of streams.
  "grpc.use_local_subchannel_pool": 1,
  // A sidecar is next door; a proxy of the environment is not on the way.
  "grpc.enable_http_proxy": 0,
};

/** One connection to a sidecar: "host:port" or "unix:///path". It is made when the first call needs it. */
export function openChannel(target: string): Client {
  return new Client(target, credentials.createInsecure(), CHANNEL_OPTIONS);
}
