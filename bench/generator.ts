/** One number per name, like entriesPerSecond. */
export type Measured = Readonly<Record<string, number>>;
export type Generator<L> = (load: L, isReady: () => void, stopped: Promise<void>) => Promise<Measured>;
