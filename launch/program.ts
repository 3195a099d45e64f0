import { EtcdMissingError } from "./etcd.js";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

export class UsageError extends Error {}

/** For the person who waits. */
export const tell = (message: string) => process.stderr.write(`${message}\n`);

/**
 * Runs a program with its options, of which none means that help is wanted, and tells what went wrong. `parse` throws
 * UsageError.
 */
export async function runProgram<Options>(
  name: string,
  usage: string,
  parse: (argv: readonly string[]) => Options | undefined,
  run: (options: Options) => Promise<void>,
): Promise<void> {
  try {
    const options = parse(process.argv.slice(2));
    if (options === undefined) process.stdout.write(usage);
    else await run(options);
  } catch (error) {
    const isUsage = error instanceof UsageError || error instanceof EtcdMissingError;
    tell(`${name}: ${isUsage ? error.message : error instanceof Error ? error.stack : error}`);
    // Not process.exitCode: processes that were started may still be there, and they end with this one.
    process.exit(isUsage ? EXIT_USAGE : EXIT_FAILED);
  }
}
