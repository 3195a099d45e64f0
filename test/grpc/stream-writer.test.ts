import { EventEmitter } from "node:events";
import type { ServerWritableStream } from "@grpc/grpc-js";
import { expect, it } from "vitest";
import { AnswerBudget, StreamWriter } from "../../src/grpc/stream-writer.js";

/** A stream whose transport takes what was written when the test says so. */
function aStream(budget: AnswerBudget) {
  const written: (() => void)[] = [];
  const call = Object.assign(new EventEmitter(), { write: (_: unknown, done: () => void) => written.push(done) });
  const writer = new StreamWriter(call as unknown as ServerWritableStream<Buffer, unknown>, 400, budget);
  return { call, writer, take: () => written.shift()?.() };
}

it("a stream that is not read leaves the others one message at a time", async () => {
  const budget = new AnswerBudget(300);
  const [stuck, other] = [aStream(budget), aStream(budget)];
  for (let sent = 0; sent < 3; sent++) stuck.writer.send("frame", 100);
  expect(stuck.writer.hasRoom).toBe(false);
  for (let sent = 0; sent < 3; sent++) {
    expect(other.writer.hasRoom).toBe(true);
    const next = other.writer.write("frame", 100);
    expect(other.writer.hasRoom).toBe(false);
    other.take();
    await next;
  }
  expect(budget.bytes).toBe(300);
});

it("a stream that has ended leaves nothing in what it shared, whatever the transport still tells", () => {
  const budget = new AnswerBudget(300);
  const { call, writer, take } = aStream(budget);
  writer.send("frame", 100);
  writer.send("frame", 100);
  take();
  expect(budget.bytes).toBe(100);
  for (const event of ["cancelled", "close"]) call.emit(event);
  take();
  expect(budget.bytes).toBe(0);
  writer.send("frame", 100);
  expect(budget.bytes).toBe(0);
});
