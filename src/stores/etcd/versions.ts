interface Rule {
  readonly from: string;
  /** Last version that the rule holds for. */
  readonly to: string;
  readonly because: string;
  readonly upgradeTo: string;
}

/** Versions that are known to lose or corrupt what they acknowledged. */
const REFUSED: readonly Rule[] = [
  {
    from: "0.0.0",
    to: "3.3.999",
    because: "it is older than 3.4, the first that is supported",
    upgradeTo: "the newest 3.5 or 3.6",
  },
  {
    from: "3.4.0",
    to: "3.4.20",
    because: "a single member acknowledges writes before they are durable, so that a crash loses them",
    upgradeTo: "the newest 3.4, or better 3.5 or 3.6",
  },
  {
    from: "3.5.0",
    to: "3.5.2",
    because: "members end up with different data after a crash",
    upgradeTo: "the newest 3.5 or 3.6",
  },
  {
    from: "3.5.3",
    to: "3.5.4",
    because: "a single member acknowledges writes before they are durable, so that a crash loses them",
    upgradeTo: "the newest 3.5 or 3.6",
  },
];

/** Why this version of etcd must not be used and what to do, or undefined when it may. */
export function refuseEtcdVersion(version: string): string | undefined {
  const parsed = parse(version);
  if (parsed === undefined) return `etcd reports version ${JSON.stringify(version)}, which cannot be judged`;
  const rule = REFUSED.find(({ from, to }) => order(parsed, parse(from)!) >= 0 && order(parsed, parse(to)!) <= 0);
  return rule && `etcd ${version} is refused: ${rule.because}. Upgrade to ${rule.upgradeTo}`;
}

type Version = readonly [number, number, number];

/** Pre-releases count as the version they lead to: what was wrong there was wrong before. */
function parse(version: string): Version | undefined {
  const match = /^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[-+].*)?$/.exec(version);
  return match ? [Number(match[1]), Number(match[2]), Number(match[3])] : undefined;
}

function order(a: Version, b: Version): number {
  return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
}
