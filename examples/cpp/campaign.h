// The candidate's side of a Campaign stream.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <thread>

#include "oplog/v1/leadership.grpc.pb.h"
#include "sidecar.h"
#include "state.h"

// Says that it is alive by itself, as often as the candidate has promised it.
class Campaign {
 public:
  Campaign(oplog::v1::LeadershipService::Stub& client, const oplog::v1::Candidate& candidate,
           std::chrono::milliseconds alive_interval)
      : stream_(client.Campaign(&context_)) {
    oplog::v1::CampaignRequest request;
    *request.mutable_candidate() = candidate;
    Write(request);
    alive_ = std::jthread([this, alive_interval](std::stop_token ended) {
      oplog::v1::CampaignRequest alive;
      alive.mutable_alive();
      while (Pause(ended, alive_interval)) Write(alive);
    });
  }

  bool Read(oplog::v1::CampaignResponse* response) { return stream_->Read(response); }

  void SendReady(uint64_t term, const State::Reached& reached) {
    oplog::v1::CampaignRequest request;
    request.mutable_ready()->set_term(term);
    request.mutable_ready()->set_applied_sequence_id(reached.applied);
    request.mutable_ready()->set_state_hash(reached.hash);
    request.mutable_ready()->set_applied_chain(reached.chain);
    Write(request);
  }

  // Gives the leadership up, or the wish for it: the sidecar then ends the stream.
  void Resign() {
    std::lock_guard lock(writing_);
    if (!resigned_) stream_->WritesDone();
    resigned_ = true;
  }

  // How the stream has ended, once Read has returned false.
  grpc::Status Finish() {
    alive_.request_stop();
    alive_.join();
    return stream_->Finish();
  }

 private:
  // A stream takes one message at a time. That it has ended is for Read to say.
  void Write(const oplog::v1::CampaignRequest& request) {
    std::lock_guard lock(writing_);
    if (!resigned_) stream_->Write(request);
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<oplog::v1::CampaignRequest, oplog::v1::CampaignResponse>> stream_;
  std::mutex writing_;
  bool resigned_ = false;
  std::jthread alive_;
};
