import { describe, expect, it } from "vitest";
import { withPort } from "../../src/client/target.js";

describe("an address without a port", () => {
  it.each([
    ["localhost", "localhost:7450"],
    ["db-1.example.com", "db-1.example.com:7450"],
    ["10.0.0.1", "10.0.0.1:7450"],
    ["[::1]", "[::1]:7450"],
    ["::1", "[::1]:7450"],
    ["2001:db8::7", "[2001:db8::7]:7450"],
  ])("%s is that of a sidecar", (target, address) => {
    expect(withPort(target)).toBe(address);
  });

  it.each([
    "localhost:1",
    "[::1]:1",
    "unix:///run/oplog.sock",
    "unix:relative",
    "dns:host",
    "dns:///host:1",
    "",
    "host:",
  ])("%j stays as it is", (target) => {
    expect(withPort(target)).toBe(target);
  });
});
