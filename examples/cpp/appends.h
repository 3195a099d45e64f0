// What a replica appends while it leads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>

#include "flags.h"
#include "oplog/v1/oplog.grpc.pb.h"
#include "report.h"
#include "sidecar.h"
#include "state.h"

// Appends at --rate, one at a time (master.cc keeps many in flight), and only within the time that the lease was
// promised for. An append whose outcome is not known is sent again with the same operation id; if the leadership is
// lost before it has an answer, the log decides: before this replica leads again it has applied everything that became
// of its appends.
class OwnAppends {
 public:
  OwnAppends(oplog::v1::OpLogService::Stub& log, const State& state, const Flags& flags)
      : log_(log),
        state_(state),
        log_name_(flags.text("log")),
        id_(flags.text("id")),
        rate_(flags.number("rate")),
        report_every_(flags.number("report-every")) {}

  // The newest operation that has been acknowledged. While Run runs, it alone may ask.
  uint64_t acknowledged() const { return operation_; }

  // On CLOCK_MONOTONIC; see LeaseRenewed.
  void SetLeaseEnd(uint64_t monotonic_ns) { lease_end_ns_ = monotonic_ns; }

  void Run(uint64_t term, std::stop_token lost) {
    using std::chrono::steady_clock;
    if (rate_ == 0) return;
    operation_ = std::max(operation_, state_.operation());
    const auto period = std::chrono::nanoseconds(std::chrono::seconds(1)) / static_cast<int64_t>(rate_);
    auto next = steady_clock::now();
    while (Pause(lost, next - steady_clock::now())) {
      next = std::max(next + period, steady_clock::now());
      // When its time is up, this waits until the lease is renewed, or lost.
      if (steady_clock::now().time_since_epoch() >= std::chrono::nanoseconds(lease_end_ns_)) continue;
      oplog::v1::AppendResponse appended;
      const grpc::Status status = Append(term, operation_ + 1, lost, &appended);
      if (lost.stop_requested()) return;
      if (!status.ok()) {
        std::cerr << "append " << operation_ + 1 << " of " << id_ << ": " << Printable(status.error_message()) << std::endl;
        if (!Transient(status) && Info(status).reason() != "STALE_TERM") Fail(status);
        if (!Pause(lost, RetryDelay(status, {}))) return;
        continue;
      }
      if (++operation_ % report_every_ != 0) continue;
      Event("acknowledged").With("operation", operation_).With("sequence_id", appended.last_sequence_id());
    }
  }

 private:
  static constexpr uint64_t kKeys = 100;  // written in turn
  static constexpr auto kTimeout = std::chrono::seconds(5);

  // A function of the operation alone, so that what is sent again is the same.
  grpc::Status Append(uint64_t term, uint64_t operation, std::stop_token lost, oplog::v1::AppendResponse* appended) {
    oplog::v1::AppendRequest request;
    request.set_log(log_name_);
    request.set_writer_id(id_);
    request.set_operation_id(operation);
    request.set_term(term);
    oplog::v1::Entry& entry = *request.add_entries();
    entry.set_op_type(oplog::v1::OP_TYPE_PUT_END);
    entry.set_key(id_ + "/" + std::to_string(operation % kKeys));
    entry.set_payload(id_ + " " + std::to_string(operation));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kTimeout);
    const std::stop_callback leave(lost, [&] { context.TryCancel(); });
    return log_.Append(&context, request, appended);
  }

  oplog::v1::OpLogService::Stub& log_;
  const State& state_;
  const std::string log_name_, id_;
  const uint64_t rate_, report_every_;
  std::atomic<uint64_t> lease_end_ns_ = 0;
  uint64_t operation_ = 0;
};
