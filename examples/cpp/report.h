// Events on standard output, one line of JSON each.
#pragma once

#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>

class Event {
 public:
  explicit Event(const std::string& name) { line_ << "{\"event\":\"" << name << '"'; }
  ~Event() { std::cout << line_.str() + "}\n" << std::flush; }

  Event& With(const std::string& name, uint64_t value) {
    line_ << ",\"" << name << "\":" << value;
    return *this;
  }
  // For names and the like, which need no escapes.
  Event& With(const std::string& name, const std::string& value) {
    line_ << ",\"" << name << "\":\"" << value << '"';
    return *this;
  }
  Event& With(const std::string& name, bool value) {
    line_ << ",\"" << name << "\":" << (value ? "true" : "false");
    return *this;
  }

 private:
  std::ostringstream line_;
};

inline std::string Hex(const std::string& bytes) {
  std::ostringstream hex;
  for (const unsigned char byte : bytes) hex << std::hex << std::setw(2) << std::setfill('0') << int{byte};
  return hex.str();
}
