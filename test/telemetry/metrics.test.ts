import { describe, expect, it } from "vitest";
import { RequestBudget } from "../../src/grpc/request-budget.js";
import { Metrics } from "../../src/telemetry/metrics.js";
import { replicationObserver } from "../../src/telemetry/observers.js";

const BOUNDED_LABELS = new Set([
  "log",
  "outcome",
  "reason",
  "stage",
  "operation",
  "method",
  "code",
  "version",
  "node_version",
  "store",
  "phase",
]);

describe("the metrics", () => {
  const requests = new RequestBudget(1000, 10);
  const metrics = new Metrics({ version: "1.2.3", storeKind: "embedded", requests, output: { linesDropped: 3 } });

  it("are exposed with their help and labels", async () => {
    metrics.entriesAppended.inc({ log: "orders" }, 3);
    metrics.appends.inc({ log: "orders", outcome: "QUEUE_FULL" });
    metrics.commitSeconds.observe({ log: "orders" }, 0.002);
    metrics.storeReachable.set(1);
    const text = await metrics.registry.metrics();
    expect(text).toContain('oplog_appended_entries_total{log="orders"} 3');
    expect(text).toContain('oplog_appends_total{log="orders",outcome="QUEUE_FULL"} 1');
    expect(text).toContain('oplog_commit_duration_seconds_bucket{le="0.0025",log="orders"} 1');
    expect(text).toContain("oplog_store_reachable 1");
    expect(text).toContain("oplog_log_lines_dropped_total 3");
    expect(text).toMatch(/oplog_build_info\{version="1\.2\.3",node_version="v[\d.]+",store="embedded"\} 1/);
    expect(text).toContain("process_cpu_seconds_total");
    expect(text).toContain("nodejs_eventloop_lag_p99_seconds");
  });

  it("are named by the conventions of Prometheus, and labelled by nothing unbounded", async () => {
    const own = (await metrics.registry.getMetricsAsJSON()).filter(({ name }) => name.startsWith("oplog_"));
    expect(own.length).toBeGreaterThanOrEqual(20);
    for (const { name, type, help } of own) {
      expect(name).toMatch(/^oplog_[a-z_]+$/);
      expect(help).toMatch(/\.$/);
      expect(name.endsWith("_total"), name).toBe(String(type) === "counter");
      expect(name).not.toMatch(/_(ms|millis|kb|mb)(_|$)/);
    }
    const labels = Object.values(metrics).flatMap((field) => (field as { labelNames?: string[] }).labelNames ?? []);
    expect(labels.filter((label) => !BOUNDED_LABELS.has(label))).toEqual([]);
    expect(labels).toContain("log");
  });

  it("tell what waits for the store at the time they are read, though nothing is acknowledged", async () => {
    const queued = async () => {
      const text = await metrics.registry.metrics();
      return [/^oplog_append_queue_appends (\d+)$/m, /^oplog_append_queue_bytes (\d+)$/m].map(
        (each) => each.exec(text)?.[1],
      );
    };
    requests.take(300);
    requests.take(200);
    expect(await queued()).toEqual(["2", "500"]);
    requests.give(300);
    expect(await queued()).toEqual(["1", "200"]);
  });

  it("tell the term that was seen last, of whoever's records", async () => {
    const observer = replicationObserver(metrics);
    observer.termSeen("led", 3n);
    observer.headMoved("led", 9n);
    const text = await metrics.registry.metrics();
    expect(text).toContain('oplog_term{log="led"} 3');
    expect(text).toContain('oplog_head_sequence_id{log="led"} 9');
  });

  it("of one instance are not those of another", async () => {
    const other = new Metrics({ version: "1", storeKind: "etcd", requests, output: { linesDropped: 3 } });
    expect(await other.registry.metrics()).not.toContain('log="orders"');
  });
});
