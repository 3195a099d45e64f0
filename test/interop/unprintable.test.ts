import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AppendCall, rpcError, ScriptedSidecar } from "../client/scripted-sidecar.js";
import { Clients } from "./clients.js";
import { Toolchain } from "./toolchain.js";

const BUILD_MS_MAX = 600_000;
const RUN_MS_MAX = 60_000;
const ENDPOINT = "a\n\u001b[31mRED b";

const toolchain = await Toolchain.probe();
const languages = (["go", "cpp"] as const).filter((language) => toolchain.has(language));

describe.runIf(languages.length > 0).each(languages)("the master in %s", (language) => {
  let clients: Clients;

  beforeAll(async () => {
    clients = await Clients.build([language]);
  }, BUILD_MS_MAX);

  afterAll(() => clients?.stop());

  it(
    "does not let the address of a leader steer the terminal",
    async () => {
      let streams = 0;
      const AppendStream = (call: AppendCall) => {
        streams += 1;
        const message = `this sidecar does not lead the log: "x" at ${ENDPOINT} claimed term 1`;
        const away = { code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY", metadata: { endpoint: ENDPOINT } } as const;
        const refused = { code: "PERMISSION_DENIED", reason: "" } as const;
        call.emit("error", rpcError({ ...(streams === 1 ? away : refused), message }));
      };
      const sidecar = await ScriptedSidecar.start({ AppendStream });
      const { target } = sidecar;
      const failure = await clients.master(language, { target, log: "l", writer: "w", count: 1 }).then(
        () => undefined,
        (error: Error) => error,
      );
      sidecar.stop();
      expect(streams).toBe(2);
      // The line ends of the report itself, and nothing else that a terminal acts upon.
      expect(failure?.message).toContain("RED b");
      expect(failure?.message).not.toContain("\u001b");
      expect(failure?.message).not.toContain("at a\n");
    },
    RUN_MS_MAX,
  );
});
