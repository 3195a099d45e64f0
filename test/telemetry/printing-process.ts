import { writeFileSync } from "node:fs";
import { Output } from "../../src/telemetry/output.js";

/**
 * A process that prints so many numbered lines of 100 bytes, tells in a file how it fares, and prints its last line when
 * it is told to end: printing-process LINES FILE.
 */
const [lines, file] = process.argv.slice(2);
const output = new Output(1);
output.onFlowing = (missing) => output.write(`${missing} missing\n`);
process.on("exit", () => output.flush(500));

const startedMs = performance.now();
for (let line = 1; line <= Number(lines); line++) output.write(`${line}`.padEnd(99, ".").concat("\n"));
const tell = () =>
  writeFileSync(file!, JSON.stringify({ tookMs: performance.now() - startedMs, dropped: output.linesDropped }));
tell();
process.on("message", (message) => {
  if (message === "print") output.write("one more\n");
  if (message === "end") {
    output.write("the last line\n");
    process.exit(7);
  }
  tell();
  process.send!("done");
});
process.send?.("ready");
