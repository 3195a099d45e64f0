import { type Config, type ConfigResult, describeConfig } from "../config/config.js";
import { type OptionKey, optionKeys, optionTable } from "../config/options.js";
import { type Logger, setLevel } from "../telemetry/logger.js";

/** What a running process takes over from its configuration when that is read again. */
const RELOADED: readonly OptionKey[] = ["logLevel"];

/**
 * Reads the configuration again, takes over what a running process can, and names what needs a restart. One that is
 * invalid changes nothing. Returns the configuration to compare with the next time.
 */
export function reload(logger: Logger, running: Config, read: () => ConfigResult): Config {
  const result = read();
  if (result.kind !== "run") {
    const problems = result.kind === "invalid" ? result.problems : [];
    logger.error({ event: "reload_refused", problems }, `the configuration stays as it is: ${problems.join("; ")}`);
    return running;
  }
  const next = result.config;
  setLevel(logger, next.logLevel);
  const [before, after] = [describeConfig(running), describeConfig(next)];
  const changed = optionKeys.filter((key) => before[optionTable[key].name] !== after[optionTable[key].name]);
  const named = (isReloaded: boolean) =>
    changed.filter((key) => RELOADED.includes(key) === isReloaded).map((key) => optionTable[key].name);
  const [taken, left] = [named(true), named(false)];
  logger.info(
    { event: "reloaded", taken, needsRestart: left },
    `taken over: ${taken.join(", ") || "nothing new"}${left.length > 0 ? `; needs a restart: ${left.join(", ")}` : ""}`,
  );
  return { ...running, logLevel: next.logLevel };
}
