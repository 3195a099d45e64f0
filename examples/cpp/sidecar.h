// What every program here needs to talk to an oplogd: a connection, and what its refusals mean.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <stop_token>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "oplog/v1/oplog.pb.h"

// Made when it is first used. A sidecar whose machine is gone without a word is noticed after 13 s.
inline std::shared_ptr<grpc::Channel> Connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

// Before a further call on a connection that may be broken: for a second at most. gRPC goes on connecting only while
// somebody waits for it, and a call that fails at once does not.
inline void Reconnect(grpc::Channel& channel) {
  channel.WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

// The status of an answer inside a stream, as a call would have returned it.
inline grpc::Status ToStatus(const oplog::v1::Status& error) {
  return {grpc::StatusCode(error.code()), error.message(), error.SerializeAsString()};
}

// The detail of that type in a status; false if there is none.
template <typename T>
bool Detail(const grpc::Status& status, T* found) {
  oplog::v1::Status error;  // Same bytes as google.rpc.Status.
  error.ParseFromString(status.error_details());
  for (const auto& detail : error.details()) {
    if (detail.UnpackTo(found)) return true;
  }
  return false;
}

// Names the case of the error table in oplog.proto; empty if the status does not come from a sidecar.
inline google::rpc::ErrorInfo Info(const grpc::Status& status) {
  google::rpc::ErrorInfo info;
  Detail(status, &info);
  return info;
}

// How long to wait before the same request is sent again: what the sidecar asks for, at least the given.
inline std::chrono::nanoseconds RetryDelay(const grpc::Status& status, std::chrono::nanoseconds least) {
  google::rpc::RetryInfo retry;
  if (!Detail(status, &retry)) return least;
  const auto delay = std::chrono::seconds(retry.retry_delay().seconds()) + std::chrono::nanoseconds(retry.retry_delay().nanos());
  return std::max<std::chrono::nanoseconds>(delay, least);
}

// For a terminal: the address of a leader, which messages name, is what somebody else has chosen.
inline std::string Printable(const std::string& text) {
  std::ostringstream printable;
  for (const unsigned char byte : text) {
    if (byte >= 0x20 && byte < 0x7f) {
      printable << byte;
    } else {
      printable << "\\x" << std::hex << std::setw(2) << std::setfill('0') << int{byte};
    }
  }
  return printable.str();
}

// Where the log is written, as a sidecar that does not lead it says; empty if that is not known.
inline std::string LeaderEndpoint(const grpc::Status& status) {
  const auto info = Info(status);
  const auto endpoint = info.metadata().find("endpoint");
  return info.reason() == "NOT_PRIMARY" && endpoint != info.metadata().end() ? endpoint->second : "";
}

// Whether the same request may succeed later, or elsewhere. So it is too where the sidecar ended a stream without an
// error.
inline bool Transient(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::OK:
    case grpc::UNAVAILABLE:
    case grpc::UNKNOWN:
    case grpc::INTERNAL:
    case grpc::CANCELLED:
    case grpc::DEADLINE_EXCEEDED:
      return true;
    default:
      google::rpc::RetryInfo retry;
      return Info(status).reason() == "NOT_PRIMARY" || Detail(status, &retry);
  }
}

// Ends the process: trying again would change nothing.
[[noreturn]] inline void Fail(const grpc::Status& status) {
  std::cerr << Info(status).reason() << ": " << Printable(status.error_message()) << std::endl;
  std::_Exit(1);
}

// False if it was stopped meanwhile.
inline bool Pause(const std::stop_token& stop, std::chrono::nanoseconds time) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any().wait_for(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}
