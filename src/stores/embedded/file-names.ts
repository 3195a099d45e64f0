/** What LMDB calls its files in a data directory. */
export const DATA_FILE = "data.mdb";
export const LOCK_FILE = "lock.mdb";
