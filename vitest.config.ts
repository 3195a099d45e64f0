import { defineConfig } from "vitest/config";

/** Where .ci/run wants the numbers. */
const report = process.env.TEST_REPORT_FILE;

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    pool: "forks",
    maxWorkers: 2,
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]],
  },
});
