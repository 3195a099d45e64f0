import { type ChildProcess, fork } from "node:child_process";
import { join } from "node:path";
import type { Measured } from "./generator.js";
import type { FromLoad, Loads, ToLoad } from "./load.js";

/** A load generator in a process of its own, so that nothing but the machine is shared with what it measures. */
export class LoadProcess {
  private readonly child: ChildProcess;
  readonly ready: Promise<void>;
  readonly measured: Promise<Measured>;

  private constructor(message: ToLoad) {
    const child = fork(join(import.meta.dirname, "load.ts"));
    this.child = child;
    let isReady: () => void = () => undefined;
    this.measured = new Promise((resolve, reject) => {
      child.on("message", (message: FromLoad) => {
        if (message === "ready") return isReady();
        if ("measured" in message) resolve(message.measured);
        else reject(new Error(message.failure));
        child.disconnect();
      });
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`a load generator ended with ${code} before it reported`)));
    });
    const failed = this.measured.then(() => undefined);
    this.ready = Promise.race([new Promise<void>((resolve) => (isReady = resolve)), failed]);
    // Whoever awaits them sees it.
    this.ready.catch(() => undefined);
    child.send(message);
  }

  static start<K extends keyof Loads>(run: K, load: Loads[K]): LoadProcess {
    return new LoadProcess({ run, load } as ToLoad);
  }

  static run<K extends keyof Loads>(run: K, load: Loads[K]): Promise<Measured> {
    return LoadProcess.start(run, load).measured;
  }

  stop(): void {
    this.child.send("stop" satisfies ToLoad);
  }
}
