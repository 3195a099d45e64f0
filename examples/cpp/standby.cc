// Follows a log through Subscribe: in order, once, without holes, also across broken streams and restarts.
#include <grpcpp/grpcpp.h>
#include <openssl/evp.h>

#include <chrono>
#include <iomanip>
#include <sstream>
#include <thread>

#include "flags.h"
#include "oplog/v1/oplog.grpc.pb.h"
#include "sidecar.h"

using namespace oplog::v1;

constexpr int kAttemptsMax = 60;  // streams in a row without a frame

class LogHash {
 public:
  LogHash() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }

  void Add(const Entry& entry) {
    Number(entry.sequence_id(), 8);
    Number(entry.op_type(), 1);
    Number(entry.key().size(), 4);
    Bytes(entry.key());
    Number(entry.payload().size(), 4);
    Bytes(entry.payload());
  }

  std::string Hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    std::ostringstream hex;
    for (unsigned int i = 0; i < size; ++i) hex << std::hex << std::setw(2) << std::setfill('0') << int{digest[i]};
    return hex.str();
  }

 private:
  void Bytes(const std::string& bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }

  void Number(uint64_t value, int size) {
    std::string big_endian;
    for (int shift = 8 * (size - 1); shift >= 0; shift -= 8) big_endian.push_back(static_cast<char>(value >> shift));
    Bytes(big_endian);
  }

  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

class Standby {
 public:
  explicit Standby(const Flags& flags)
      : log_(flags.text("log")),
        until_(flags.number("until")),
        last_(flags.number("from") - 1),
        channel_(Connect(flags.text("target"))),
        client_(OpLogService::NewStub(channel_)) {}

  int Run() {
    for (int attempts = 0; last_ < until_; ++attempts) {
      const uint64_t before = streams_;
      const grpc::Status status = Session();
      if (streams_ > before) attempts = 0;
      if (last_ >= until_) break;
      std::cerr << "after " << last_ << ": " << status.error_message() << std::endl;
      if (!Transient(status) || attempts == kAttemptsMax) return 1;
      std::this_thread::sleep_for(std::chrono::seconds(1));
      Reconnect(*channel_);
    }
    std::cout << "{\"received\":" << received_ << ",\"hash\":\"" << hash_.Hex() << "\",\"resumes\":" << streams_ - 1
              << "}" << std::endl;
    return 0;
  }

 private:
  // One stream: takes entries until the last one wanted, or until it breaks.
  grpc::Status Session() {
    SubscribeRequest request;
    request.set_log(log_);
    request.set_from_sequence_id(last_ + 1);
    request.set_previous_term(term_);
    request.set_previous_chain(chain_);
    request.set_log_id(log_id_);
    request.set_consumer("cpp-standby");
    grpc::ClientContext context;
    auto stream = client_->Subscribe(&context, request);
    SubscribeResponse response;
    for (bool first = true; last_ < until_ && stream->Read(&response); first = false) {
      if (first) ++streams_;
      if (response.has_heartbeat() && !response.heartbeat().log_id().empty()) log_id_ = response.heartbeat().log_id();
      if (response.has_batch()) Take(response.batch());
    }
    if (last_ >= until_) context.TryCancel();
    return stream->Finish();
  }

  void Take(const Batch& batch) {
    Expect(batch.first_sequence_id());
    for (const Entry& entry : batch.entries()) {
      Expect(entry.sequence_id());
      if (entry.sequence_id() > until_) return;
      last_ = entry.sequence_id();
      term_ = entry.term();
      ++received_;
      hash_.Add(entry);
    }
    chain_ = batch.last_chain();
  }

  void Expect(uint64_t sequence_id) const {
    if (sequence_id == last_ + 1) return;
    std::cerr << sequence_id << " where " << last_ + 1 << " was due" << std::endl;
    std::abort();
  }

  const std::string log_;
  const uint64_t until_;
  uint64_t last_, term_ = 0;  // of the last entry received
  std::string chain_;         // resuming with it proves that the log still has that entry
  std::string log_id_;        // resuming with it proves that it is still the same log
  uint64_t received_ = 0, streams_ = 0;
  LogHash hash_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<OpLogService::Stub> client_;
};

int main(int argc, char** argv) {
  const Flags flags(argc, argv, {{"target", "127.0.0.1:7450"}, {"log", ""}, {"from", "1"}, {"until", "0"}});
  return Standby(flags).Run();
}
