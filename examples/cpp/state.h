// The last value of each key, as StandbyService in standby.proto defines it.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "oplog/v1/oplog.pb.h"

// Always the state at exactly the entry `applied`. Any thread may use it.
class State {
 public:
  struct Position {
    uint64_t applied = 0, term = 0;  // of the last entry applied
    std::string chain;               // of that entry: who hands it back is told if the log has another history by now
    std::string log_id;              // resuming with it proves that it is still the same log
  };
  struct Reached {
    uint64_t applied;
    std::string hash;   // See GetStateHashResponse.
    std::string chain;  // of the last entry applied
  };

  // `own` is what the payloads that this replica writes start with; the number of the append follows.
  explicit State(std::string own) : own_(std::move(own)) {}

  Position position() const {
    std::lock_guard lock(mutex_);
    return position_;
  }

  // The newest append of this replica that has been applied.
  uint64_t operation() const {
    std::lock_guard lock(mutex_);
    return operation_;
  }

  void Identify(const std::string& log_id) {
    std::lock_guard lock(mutex_);
    if (!log_id.empty()) position_.log_id = log_id;
  }

  // Waits until the entry has been applied, and tells how far the state is then; nothing if it is stopped first.
  std::optional<Reached> Reach(uint64_t sequence_id, std::stop_token stop) const {
    std::unique_lock lock(mutex_);
    if (!changed_.wait(lock, stop, [&] { return position_.applied >= sequence_id; })) return std::nullopt;
    std::string hash;
    for (const uint64_t lane : hash_) hash += LittleEndian(lane, 8);
    return Reached{position_.applied, hash, position_.chain};
  }

  void Apply(const oplog::v1::Batch& batch) {
    std::lock_guard lock(mutex_);
    for (const auto& entry : batch.entries()) {
      if (entry.sequence_id() != position_.applied + 1) {
        std::cerr << "entry " << entry.sequence_id() << " where " << position_.applied + 1 << " was due" << std::endl;
        std::abort();
      }
      if (entry.op_type() != oplog::v1::OP_TYPE_EVENT) ApplyToKey(entry);
      position_.applied = entry.sequence_id();
      position_.term = entry.term();
    }
    position_.chain = batch.last_chain();
    changed_.notify_all();
  }

 private:
  struct Value {
    std::string payload;
    uint64_t sequence_id, key_sequence_id;
  };

  void ApplyToKey(const oplog::v1::Entry& entry) {
    const auto held = values_.find(entry.key());
    const bool is_held = held != values_.end();
    const uint64_t before = is_held ? held->second.key_sequence_id : 0;
    // Without one an entry is in order by its place in the log, also after the highest number there is.
    const uint64_t next = before == UINT64_MAX ? before : before + 1;
    const uint64_t key_sequence_id = entry.has_key_sequence_id() ? entry.key_sequence_id() : next;
    if (is_held && entry.has_key_sequence_id() && key_sequence_id <= before) {
      std::cerr << "entry " << entry.sequence_id() << " violates the order of key " << entry.key()
                << ", which is dropped" << std::endl;
      Drop(held);
    } else if (entry.op_type() == oplog::v1::OP_TYPE_PUT_END) {
      if (is_held) Drop(held);
      const auto put = values_.emplace(entry.key(), Value{entry.payload(), entry.sequence_id(), key_sequence_id});
      Count(*put.first, 1);
      if (entry.payload().starts_with(own_)) operation_ = std::stoull(entry.payload().substr(own_.size()));
    } else if (entry.op_type() == oplog::v1::OP_TYPE_REMOVE) {
      if (is_held) Drop(held);
    } else if (is_held) {  // PUT_REVOKE
      held->second.key_sequence_id = key_sequence_id;
    }
  }

  using Values = std::map<std::string, Value>;

  void Drop(Values::iterator held) {
    Count(*held, -1);
    values_.erase(held);
  }

  // Adds the digest of a key to the hash, or takes it away, modulo 2^64.
  void Count(const Values::value_type& held, int sign) {
    const auto& [key, value] = held;
    const std::string part = LittleEndian(value.sequence_id, 8) + LittleEndian(key.size(), 4) + key + value.payload;
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
    EVP_Digest(part.data(), part.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
    for (size_t lane = 0; lane < hash_.size(); ++lane) {
      uint64_t number = 0;
      for (int byte = 7; byte >= 0; --byte) number = number << 8 | digest[8 * lane + byte];
      hash_[lane] += sign * number;
    }
  }

  static std::string LittleEndian(uint64_t value, int size) {
    std::string bytes;
    for (int shift = 0; shift < 8 * size; shift += 8) bytes.push_back(static_cast<char>(value >> shift));
    return bytes;
  }

  const std::string own_;
  mutable std::mutex mutex_;
  mutable std::condition_variable_any changed_;
  Values values_;
  std::array<uint64_t, 4> hash_{};
  Position position_;
  uint64_t operation_ = 0;
};
