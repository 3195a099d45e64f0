// Appends entries to a log through AppendStream: pipelined, and exactly once across broken streams, restarts and
// changes of the leader.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <semaphore>
#include <sstream>
#include <thread>
#include <vector>

#include "flags.h"
#include "oplog/v1/oplog.grpc.pb.h"
#include "sidecar.h"

using namespace oplog::v1;

constexpr int kInFlightMax = 64;  // appends sent and not answered
constexpr int kAttemptsMax = 60;  // streams in a row without an answer

// Answers come in the order of the requests, so one number tells what is left to send: operations are numbered from 1,
// and those above `answered` are sent, or sent again, in order and with the same ids.
class Master {
 public:
  explicit Master(const Flags& flags)
      : log_(flags.text("log")),
        writer_(flags.text("writer")),
        count_(flags.number("count")),
        entries_per_append_(flags.number("entries-per-append")),
        payload_bytes_(flags.number("payload-bytes")),
        operations_((count_ + entries_per_append_ - 1) / entries_per_append_) {
    std::istringstream targets(flags.text("target"));
    for (std::string target; std::getline(targets, target, ',');) given_.push_back(target);
  }

  // One stream after the other, until everything has an answer: at the leader as soon as somebody has named it, else at
  // the sidecars given, in turn.
  int Run() {
    std::string target = given_.front();
    size_t turn = 0;
    for (int attempts = 0; answered_ < operations_; ++attempts) {
      const uint64_t before = answered_;
      const grpc::Status status = Session(target);
      if (answered_ > before) attempts = 0;
      if (status.ok()) continue;
      std::cerr << "after operation " << answered_ << ", at " << Printable(target) << ": "
                << Printable(status.error_message()) << std::endl;
      if (!Transient(status) || attempts == kAttemptsMax) return 1;
      const std::string leader = LeaderEndpoint(status);
      if (!leader.empty() && leader != target) {
        target = leader;
        if (attempts == 0) continue;  // Later ones wait: two that name each other must not be asked in a tight loop.
      } else {
        target = given_[++turn % given_.size()];
      }
      std::this_thread::sleep_for(RetryDelay(status, std::chrono::seconds(1)));
    }
    std::cout << "{\"acknowledged\":" << acknowledged_ << ",\"first\":" << first_ << ",\"last\":" << last_
              << ",\"duplicates\":" << duplicates_ << "}" << std::endl;
    return acknowledged_ == count_ ? 0 : 1;
  }

 private:
  // One stream: sends everything that has no answer yet and takes the answers, until all are there or it breaks.
  grpc::Status Session(const std::string& target) {
    const auto client = OpLogService::NewStub(Connect(target));
    grpc::ClientContext context;
    auto stream = client->AppendStream(&context);
    std::counting_semaphore<> window(kInFlightMax);
    std::thread sender([&, operation = answered_ + 1]() mutable {
      for (; operation <= operations_; ++operation) {
        window.acquire();
        if (!stream->Write(Request(operation))) return;  // Finish tells why.
      }
      stream->WritesDone();
    });
    grpc::Status refused;
    for (AppendStreamResponse answer; answered_ < operations_ && refused.ok() && stream->Read(&answer);) {
      refused = Take(answer);
      window.release();
    }
    if (!refused.ok()) context.TryCancel();  // Makes every further Write return false, as the end of the stream does.
    window.release();                        // The sender may be waiting for room.
    sender.join();
    const grpc::Status ended = stream->Finish();
    if (answered_ == operations_) return grpc::Status::OK;
    if (!refused.ok()) return refused;
    return ended.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the sidecar ended the stream") : ended;
  }

  grpc::Status Take(const AppendStreamResponse& answer) {
    if (answer.correlation_id() != answered_ + 1) {
      std::cerr << "answer " << answer.correlation_id() << " where " << answered_ + 1 << " was due" << std::endl;
      std::abort();
    }
    if (answer.has_error() && Transient(ToStatus(answer.error()))) return ToStatus(answer.error());
    ++answered_;
    if (answer.has_error()) {
      std::cerr << "operation " << answered_ << " refused: " << Printable(answer.error().message()) << std::endl;
      return grpc::Status::OK;
    }
    const AppendResponse& appended = answer.appended();
    const uint64_t entries = appended.last_sequence_id() - appended.first_sequence_id() + 1;
    acknowledged_ += entries;
    if (appended.duplicate()) duplicates_ += entries;
    if (first_ == 0) first_ = appended.first_sequence_id();
    last_ = appended.last_sequence_id();
    return grpc::Status::OK;
  }

  // A function of the operation id alone. A real master keeps the operations that are not answered yet.
  AppendStreamRequest Request(uint64_t operation) const {
    AppendStreamRequest request;
    request.set_correlation_id(operation);
    AppendRequest& append = *request.mutable_append();
    append.set_log(log_);
    append.set_writer_id(writer_);
    append.set_operation_id(operation);
    const uint64_t end = std::min(operation * entries_per_append_, count_);
    for (uint64_t i = (operation - 1) * entries_per_append_; i < end; ++i) {
      Entry& entry = *append.add_entries();
      entry.set_op_type(i % 10 == 9 ? OP_TYPE_REMOVE : OP_TYPE_PUT_END);
      entry.set_key("object/" + std::to_string(i % 100));
      if (i % 10 != 9) entry.set_payload(std::string(payload_bytes_, static_cast<char>(i)));
    }
    return request;
  }

  const std::string log_, writer_;
  const uint64_t count_, entries_per_append_, payload_bytes_, operations_;
  std::vector<std::string> given_;
  uint64_t answered_ = 0, acknowledged_ = 0, duplicates_ = 0, first_ = 0, last_ = 0;
};

int main(int argc, char** argv) {
  const Flags flags(argc, argv,
                    {{"target", "127.0.0.1:7450"},
                     {"log", ""},
                     {"writer", ""},
                     {"count", "0"},
                     {"entries-per-append", "1"},
                     {"payload-bytes", "200"}});
  return Master(flags).Run();
}
