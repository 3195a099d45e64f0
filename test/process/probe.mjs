/** Loaded into oplogd (--import): on SIGUSR2 it does what PROBE says, as a defect of a handler would. */
process.on("SIGUSR2", () => {
  const failure = new Error("a defect for the test");
  if (process.env.PROBE === "reject") Promise.reject(failure);
  if (process.env.PROBE === "timer")
    setTimeout(() => {
      throw failure;
    }, 1);
  if (process.env.PROBE === "event") throw failure;
  if (process.env.PROBE === "not an error") Promise.reject("just text");
});
