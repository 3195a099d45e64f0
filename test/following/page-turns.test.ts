import { expect, it } from "vitest";
import { PageTurns } from "../../src/following/page-turns.js";

const never = new Promise<void>(() => undefined);

/** Whether it is so by now, without waiting any longer. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol();
  // A few rounds of the loop: nothing here waits for anything else.
  for (let round = 0; round < 3; round++) await new Promise((resolve) => setImmediate(resolve));
  return (await Promise.race([promise, Promise.resolve(pending)])) !== pending;
}

it("gives no more turns than there are, and the next one to who came first", async () => {
  const turns = new PageTurns(2);
  const [first] = [await turns.take(), await turns.take()];
  const third = turns.take();
  const fourth = turns.take();
  expect(await isSettled(third)).toBe(false);
  first?.end();
  first?.end();
  expect(await isSettled(third)).toBe(true);
  expect(await isSettled(fourth)).toBe(false);
});

it("takes the turn of whoever has waited longest for its peer, and only when it is wanted", async () => {
  const turns = new PageTurns(2);
  const [first, second] = [await turns.take(), await turns.take()];
  const lent = first!.lendWhile(never);
  const other = second!.lendWhile(never);
  expect(await isSettled(lent)).toBe(false);
  await turns.take();
  expect(await lent).toBe(false);
  expect(await isSettled(other)).toBe(false);
});

it("takes the turn of who begins to wait for its peer while others wait for a turn", async () => {
  const turns = new PageTurns(1);
  const turn = await turns.take();
  const next = turns.take();
  expect(await turn?.lendWhile(never)).toBe(false);
  expect(await isSettled(next)).toBe(true);
});

it("leaves a turn to who has waited for its peer and goes on", async () => {
  const turns = new PageTurns(1);
  const turn = await turns.take();
  expect(await turn?.lendWhile(Promise.resolve())).toBe(true);
  expect(await isSettled(turns.take())).toBe(false);
  expect(turn?.isLost).toBe(false);
});

it("ends a long turn once others wait", async () => {
  const turns = new PageTurns(1);
  const turn = await turns.take();
  expect(turn?.lasts(5 << 20)).toBe(true);
  const next = turns.take();
  expect(turn?.lasts(1)).toBe(false);
  expect(await isSettled(next)).toBe(true);
});

it("forgets who no longer waits", async () => {
  const turns = new PageTurns(1);
  const turn = await turns.take();
  const leaving = new AbortController();
  const left = turns.take(leaving.signal);
  leaving.abort();
  expect(await left).toBeUndefined();
  turn?.end();
  expect(await turns.take(leaving.signal)).toBeUndefined();
  expect(await isSettled(turns.take())).toBe(true);
});
