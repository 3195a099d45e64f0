// node summarize.mjs <vitest's JSON report> <exit status of the checks>
// Prints "N passed, N failed" and exits with that status, or 1 when anything failed or no test ran.
import { readFileSync } from "node:fs";

const [reportFile, statusText] = process.argv.slice(2);
const status = Number(statusText);

const { passed, failed } = count();
// A check other than the tests failed, or something outside of any test did.
const failedInAll = status !== 0 ? Math.max(failed, 1) : failed;
console.log(`${passed} passed, ${failedInAll} failed`);
process.exitCode = status !== 0 ? status : failedInAll > 0 ? 1 : 0;

function count() {
  let report;
  try {
    report = JSON.parse(readFileSync(reportFile, "utf8"));
  } catch (error) {
    console.error(`no test report: ${error.message}`);
    return { passed: 0, failed: 1 };
  }
  // A file that cannot be loaded has failed without a test of its own to show for it.
  const brokenFiles = report.testResults.filter(
    ({ status, assertionResults }) =>
      status === "failed" && !assertionResults.some((assertion) => assertion.status === "failed"),
  );
  for (const { name, message } of brokenFiles) console.error(`${name}: ${message}`);
  const failed = report.numFailedTests + brokenFiles.length;
  return { passed: report.numPassedTests, failed: report.numTotalTests === 0 ? Math.max(failed, 1) : failed };
}
