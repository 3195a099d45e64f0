import type { Clock } from "../../oplog/clock.js";
import type { StoreDataLossError } from "../../oplog/kv-store.js";
import type { Logger } from "../../oplog/logger.js";
import { cutOff, lost } from "./failures.js";
import { FileIdentity } from "./file-identity.js";
import { noteClosed } from "./file-state.js";

/** How old a look at the files may be when something is read. */
const LOOK_MS_MAX = 100;

/** The files that a store has open. Once they are lost or damaged they stay so, until they are opened again. */
export class HeldFiles {
  /** Why nothing may be written any more. */
  loss: StoreDataLossError | undefined;
  private readonly identity: FileIdentity;
  private lookedMs = Number.NEGATIVE_INFINITY;

  /** `path`: as the directory was named. `directory`: without links. */
  constructor(
    path: string,
    private readonly directory: string,
    private readonly clock: Clock,
    private readonly logger: Logger,
    /** Called once. */
    private readonly onLost: (loss: StoreDataLossError, isReadable: boolean) => void,
  ) {
    this.identity = new FileIdentity(path);
  }

  /** Why nothing may be written any more, as of now. */
  look(): StoreDataLossError | undefined {
    if (this.loss !== undefined) return this.loss;
    this.lookedMs = this.clock.monotonicMs();
    const problem = this.identity.problem();
    if (problem !== undefined) this.lose((problem.isReadable ? lost : cutOff)(problem.text), problem.isReadable);
    return this.loss;
  }

  /** Reading beyond the end of a file that was cut off ends the process. */
  lookBeforeReading(): void {
    if (this.clock.monotonicMs() - this.lookedMs > LOOK_MS_MAX) this.look();
  }

  /** The loss that was noticed first. */
  lose(error: StoreDataLossError, isReadable = true): StoreDataLossError {
    if (this.loss !== undefined) return this.loss;
    this.loss = error;
    this.logger.error({ event: "store_lost", directory: this.directory, err: error }, error.message);
    this.onLost(error, isReadable);
    return error;
  }

  /** After the last write. */
  noteClosed(): void {
    try {
      noteClosed(this.directory);
    } catch (error) {
      this.logger.warn({ directory: this.directory, err: error }, "the next start will check the file first");
    }
  }
}
