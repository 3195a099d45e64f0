import { spawn } from "node:child_process";

export interface GrpcurlResult {
  /** 0, or 64 + the code of the status. */
  readonly exitCode: number;
  readonly output: string;
  readonly errors: string;
}

/** What a person types: no descriptors, reflection only. `until`: ends the call as soon as the output matches. */
export async function grpcurl(binary: string, args: readonly string[], until?: RegExp): Promise<GrpcurlResult> {
  const child = spawn(binary, ["-plaintext", "-max-time", "20", ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let errors = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
    if (until?.test(output)) child.kill();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const exitCode = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? -1));
  });
  return { exitCode, output, errors };
}
