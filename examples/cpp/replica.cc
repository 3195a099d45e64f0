// A replicated map, as a master process keeps it: follows the log of its own sidecar, stands for its leadership, and
// appends while it leads. Prints one line of JSON for each thing that happens. SIGTERM gives the leadership up.
#include <signal.h>
#include <unistd.h>

#include <cstring>

#include "appends.h"
#include "campaign.h"
#include "flags.h"
#include "oplog/v1/oplog.grpc.pb.h"
#include "report.h"
#include "state.h"

using namespace oplog::v1;
using namespace std::chrono_literals;

constexpr auto kRetryPause = 200ms;
constexpr int kResignSeconds = 10;

class Replica {
 public:
  explicit Replica(const Flags& flags)
      : log_name_(flags.text("log")),
        id_(flags.text("id")),
        endpoint_(flags.text("endpoint")),
        ttl_(flags.number("ttl-ms")),
        state_(id_ + " "),
        channel_(Connect(flags.text("target"))),
        log_(OpLogService::NewStub(channel_)),
        leadership_(LeadershipService::NewStub(channel_)),
        appends_(*log_, state_, flags) {}

  uint64_t acknowledged() const { return appends_.acknowledged(); }

  // Follows the log for good: a stream that breaks is resumed at the next entry.
  void Follow(std::stop_token stop) {
    for (; !stop.stop_requested(); Pause(stop, kRetryPause)) {
      Reconnect(*channel_);
      const auto position = state_.position();
      SubscribeRequest request;
      request.set_log(log_name_);
      request.set_from_sequence_id(position.applied + 1);
      request.set_previous_term(position.term);
      request.set_previous_chain(position.chain);
      request.set_log_id(position.log_id);
      request.set_consumer(id_);
      grpc::ClientContext context;
      const std::stop_callback leave(stop, [&] { context.TryCancel(); });
      const auto stream = log_->Subscribe(&context, request);
      for (SubscribeResponse response; stream->Read(&response);) {
        if (response.has_heartbeat()) state_.Identify(response.heartbeat().log_id());
        if (response.has_batch()) state_.Apply(response.batch());
      }
      const grpc::Status ended = stream->Finish();
      if (!Transient(ended)) Fail(ended);
    }
  }

  // Stands for the leadership again and again: who has lost it goes on as a standby.
  void Campaigns(std::stop_token stop) {
    for (; !stop.stop_requested(); Pause(stop, kRetryPause)) {
      Reconnect(*channel_);
      const grpc::Status ended = Candidacy(stop);
      if (ended.ok()) continue;
      std::cerr << "the campaign has ended: " << ended.error_message() << std::endl;
      const std::string reason = Info(ended).reason();
      // A candidate that has died is forgotten after its TTL.
      if (!Transient(ended) && reason != "CANDIDATE_EXISTS" && reason != "TOO_MANY") Fail(ended);
    }
  }

 private:
  // One campaign, until it is lost, the stream breaks, or it is stopped.
  grpc::Status Candidacy(std::stop_token stop) {
    Candidate candidate;
    candidate.set_log(log_name_);
    candidate.set_id(id_);
    candidate.set_endpoint(endpoint_);
    for (auto* duration : {candidate.mutable_ttl(), candidate.mutable_alive_within()}) {
      duration->set_seconds(ttl_ / 1s);
      duration->set_nanos(ttl_ % 1s / 1ns);
    }
    appends_.SetLeaseEnd(0);
    Campaign campaign(*leadership_, candidate, ttl_ / 3);
    const std::stop_callback resign(stop, [&] { campaign.Resign(); });
    // What runs because of the last Prepare and the last Leading. Giving one another task stops and joins the old one.
    std::jthread preparing, leading;
    for (CampaignResponse response; campaign.Read(&response);) {
      if (response.has_waiting()) {
        preparing = std::jthread();
        Event("waiting").With("leader", response.waiting().leader().id());
      } else if (response.has_prepare()) {
        const Prepare prepare = response.prepare();
        Event("prepare")
            .With("term", prepare.term())
            .With("final", prepare.final_sequence_id())
            .With("hand_over", prepare.is_hand_over());
        preparing = std::jthread([this, &campaign, prepare](std::stop_token obsolete) {
          AnswerPrepare(campaign, prepare, obsolete);
        });
      } else if (response.has_leading()) {
        leading = std::jthread();
        const uint64_t term = response.leading().term();
        Event("leading").With("term", term).With("next", response.leading().next_sequence_id());
        leading = std::jthread([this, term](std::stop_token lost) { appends_.Run(term, lost); });
      } else if (response.has_lease_renewed()) {
        appends_.SetLeaseEnd(response.lease_renewed().valid_until_monotonic_ns());
      } else if (response.has_lost()) {
        leading = std::jthread();
        Event("lost").With("reason", LostReason_Name(response.lost().reason()).substr(strlen("LOST_REASON_")));
        std::cerr << "lost: " << response.lost().message() << std::endl;
      }
    }
    const bool was_leading = leading.joinable();
    leading = std::jthread();
    preparing = std::jthread();
    const grpc::Status ended = campaign.Finish();
    if (stop.stop_requested()) return grpc::Status::OK;
    if (was_leading) Event("lost").With("reason", std::string("STREAM_BROKEN"));
    return ended;
  }

  // Answers once everything has been applied. A state that is beyond the final entry shows that this Prepare holds no
  // more, since a hand-over was abandoned: another message follows.
  void AnswerPrepare(Campaign& campaign, const Prepare& prepare, std::stop_token obsolete) {
    const uint64_t final = prepare.final_sequence_id();
    const auto reached = state_.Reach(final, obsolete);
    if (!reached || reached->applied != final) return;
    Event("ready").With("applied", final).With("state_hash", Hex(reached->hash));
    campaign.SendReady(prepare.term(), *reached);
  }

  const std::string log_name_, id_, endpoint_;
  const std::chrono::milliseconds ttl_;
  State state_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<OpLogService::Stub> log_;
  const std::unique_ptr<LeadershipService::Stub> leadership_;
  OwnAppends appends_;
};

int main(int argc, char** argv) {
  const Flags flags(argc, argv,
                    {{"target", "127.0.0.1:7450"},
                     {"log", ""},
                     {"id", ""},
                     {"endpoint", ""},
                     {"ttl-ms", "5000"},
                     {"rate", "100"},
                     {"report-every", "100"}});
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // In all threads to come: sigwait takes them.
  Replica replica(flags);
  std::jthread follower([&](std::stop_token stop) { replica.Follow(stop); });
  std::jthread candidate([&](std::stop_token stop) { replica.Campaigns(stop); });
  int received = 0;
  sigwait(&signals, &received);
  alarm(kResignSeconds);  // Ends this process, should the sidecar not end the campaign.
  candidate.request_stop();
  follower.request_stop();
  candidate.join();
  follower.join();
  Event("stopped").With("acknowledged", replica.acknowledged());
}
