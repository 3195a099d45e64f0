import { spawn } from "node:child_process";
import { readFileSync, rmSync, mkdirSync } from "node:fs";
import { connect } from "/tmp/wt/grpc/src/client/client.ts";
const [root, entriesPer, count] = [process.argv[2]!, Number(process.argv[3]), Number(process.argv[4])];
const dir = `/dev/shm/grpc-cpu-${process.pid}`; mkdirSync(dir);
const port = 20000 + (process.pid % 10000);
const child = spawn(process.execPath, [`${root}/dist/main.js`, "--listen", `127.0.0.1:${port}`, "--admin-listen", "off", "--data-dir", dir], { stdio: ["ignore", "pipe", "inherit"] });
await new Promise<void>((r) => child.stdout!.on("data", (d) => String(d).includes("listening") && r()));
const cpu = () => { const f = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1]!.split(" "); return (Number(f[11]) + Number(f[12])) * 10; };
const client = connect(`127.0.0.1:${port}`);
async function load(n: number) {
  const stream = client.appendStream({ inFlightMax: 1024 });
  const entries = Array.from({ length: entriesPer }, (_, i) => ({ opType: 1, key: `k${i}`, payload: Buffer.alloc(150, 1) }));
  const done = (async () => { let n = 0; for await (const a of stream.answers) { if (a.outcome.case !== "appended") throw new Error("bad"); n++; } return n; })();
  for (let i = 0; i < n; i++) await stream.send({ append: { log: "l", entries } } as never);
  stream.end(); return done;
}
await load(count / 4);
const rounds: number[] = [];
for (let r = 0; r < 3; r++) { const c0 = cpu(); await load(count); rounds.push((cpu() - c0) * 1000 / (count)); }
console.log(root, entriesPer, "us CPU per message:", rounds.map((x) => x.toFixed(1)).join(" "));
client.close(); child.kill("SIGKILL"); rmSync(dir, { recursive: true });
process.exit(0);
