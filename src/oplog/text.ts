/** What moves the cursor, ends the line or reverses the text. */
const CONTROL = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;

/** The first one, as "U+001B"; undefined where there is none. */
export function controlCharacterIn(text: string): string | undefined {
  const code = CONTROL.exec(text)?.[0].codePointAt(0);
  return code === undefined ? undefined : `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}
