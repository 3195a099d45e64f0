import { BEGINNING, type CampaignEvent, type CampaignKind, lostIn, next } from "./campaign-state.js";
import type { Lost } from "./messages.js";

interface Stay {
  readonly kinds: readonly CampaignKind[];
  readonly end: AbortController;
}

/** The state of one campaign, and the signals of those whose work belongs to it. */
export class CampaignLife {
  private state = BEGINNING;
  /** Those that go on, by their kinds. */
  private readonly stays = new Map<string, Stay>();

  get kind(): CampaignKind {
    return this.state.kind;
  }

  /** Why it does not go on. */
  get lost(): Lost | undefined {
    return lostIn(this.state);
  }

  /** Whoever works for a state that ends by this is stopped before it returns. */
  take(event: CampaignEvent): void {
    this.state = next(this.state, event);
    for (const [key, { kinds, end }] of this.stays) {
      if (kinds.includes(this.kind)) continue;
      this.stays.delete(key);
      end.abort();
    }
  }

  /** Aborts when the state is none of these any more: for good, also when it becomes one of them again. */
  during(...kinds: CampaignKind[]): AbortSignal {
    if (!kinds.includes(this.kind)) return AbortSignal.abort();
    const key = kinds.join();
    const stay = this.stays.get(key) ?? { kinds, end: new AbortController() };
    this.stays.set(key, stay);
    return stay.end.signal;
  }
}
