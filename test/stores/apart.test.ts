import { join } from "node:path";
import { expect, test } from "vitest";
import { runApart } from "../../src/stores/embedded/apart.js";
import { FileDamagedError } from "../../src/stores/embedded/page-file.js";
import { randomOf } from "../faults/scale.js";
import { makeTempDir } from "../support/temp-dir.js";
import { damage, fillStore } from "./damaged-file.js";

test("a file that ends the process that reads it by a signal is told as damaged", async () => {
  const temp = await makeTempDir("apart");
  await fillStore(temp.path, randomOf(1));
  // The meta pages are sound, and what they lead to lies beyond the end: mapped into memory, that is SIGBUS.
  damage(temp.path, (file) => file.subarray(0, 2 * 4096));
  const copying = runApart({ kind: "copy", directory: temp.path, target: join(temp.path, "copy") });
  await expect(copying).rejects.toThrow(FileDamagedError);
  await expect(copying).rejects.toThrow("reading it ends a process with SIG");
  await temp.remove();
});
