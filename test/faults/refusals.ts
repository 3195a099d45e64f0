/** What a bad request is answered with. */
export interface Refusal {
  readonly code: string;
  readonly reason: string;
  readonly metadata?: Readonly<Record<string, string>>;
}

export const invalid = (field: string, metadata: Record<string, string> = {}): Refusal => ({
  code: "INVALID_ARGUMENT",
  reason: "INVALID_ARGUMENT",
  metadata: { field, ...metadata },
});
