import { describe, expect, it } from "vitest";
import { defaultAdvertise, formatAddress, type ListenAddress } from "../../src/config/addresses.js";
import { editDistance, suggestion } from "../../src/config/suggest.js";

const tcp = (host: string, port: number): ListenAddress => ({ kind: "tcp", host, port });
const socket: ListenAddress = { kind: "unix", path: "/run/x" };

describe("defaultAdvertise", () => {
  it.each([
    [[tcp("127.0.0.1", 1), tcp("b", 2)], "127.0.0.1:1"],
    [[socket, tcp("::1", 2)], "[::1]:2"],
    [[tcp("0.0.0.0", 3)], "host-1:3"],
    [[tcp("::", 4)], "host-1:4"],
    [[socket], "unix:///run/x"],
    [[], ""],
  ])("of %j is %s", (bound, expected) => {
    expect(defaultAdvertise(bound, "host-1")).toBe(expected);
  });

  it("speaks the language of the options", () => {
    expect(formatAddress(tcp("fe80::1%eth0", 5))).toBe("[fe80::1%eth0]:5");
  });
});

describe("suggestion", () => {
  it.each([
    ["", "", 0],
    ["abc", "", 3],
    ["listen", "listne", 1],
    ["listen", "lsten", 1],
    ["kitten", "sitting", 3],
  ])("distance of %j and %j is %i", (a, b, distance) => {
    expect(editDistance(a, b)).toBe(distance);
    expect(editDistance(b, a)).toBe(distance);
  });

  it("names the nearest, and nothing when nothing is near", () => {
    expect(suggestion("lsiten", ["advertise", "listen"])).toBe("; did you mean listen?");
    expect(suggestion("quux", ["advertise", "listen"])).toBe("");
    expect(suggestion("x".repeat(100_000), ["listen"])).toBe("");
  });
});
