/** Loaded into a process beside its program (--expose-gc --import): on SIGUSR2 it tells what is alive in its heap. */
process.on("SIGUSR2", async () => {
  for (let round = 0; round < 3; round++) {
    globalThis.gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  process.stderr.write(`heap-probe ${JSON.stringify({ heapUsed, arrayBuffers })}\n`);
});
