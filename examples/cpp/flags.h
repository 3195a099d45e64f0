// Flags as `--name value`.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

class Flags {
 public:
  // `defaults` names every flag there is.
  Flags(int argc, char** argv, std::map<std::string, std::string> defaults) : values_(std::move(defaults)) {
    for (int i = 1; i < argc; i += 2) {
      const std::string name = argv[i];
      if (!name.starts_with("--") || !values_.contains(name.substr(2)) || i + 1 == argc) {
        std::cerr << "no such flag, or no value: " << name << std::endl;
        std::exit(2);
      }
      values_[name.substr(2)] = argv[i + 1];
    }
  }

  const std::string& text(const std::string& name) const { return values_.at(name); }
  uint64_t number(const std::string& name) const { return std::stoull(values_.at(name)); }

 private:
  std::map<std::string, std::string> values_;
};
