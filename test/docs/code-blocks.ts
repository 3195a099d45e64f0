/** One command of a document, with the lines that continue it. */
export interface DocumentedCommand {
  readonly text: string;
  /** Like "README.md:43". */
  readonly place: string;
}

const FENCE = /^```(\w*)$/;

/** The commands of all blocks that are marked as sh, in their order. A line that ends with a backslash goes on. */
export function commandsOf(document: string, content: string): DocumentedCommand[] {
  const commands: DocumentedCommand[] = [];
  let language: string | undefined;
  let begun: { readonly lines: string[]; readonly place: string } | undefined;
  for (const [index, line] of content.split("\n").entries()) {
    const fence = FENCE.exec(line);
    if (fence !== null) {
      language = language === undefined ? fence[1]! : undefined;
    } else if (language === "sh" && line.trim() !== "" && !line.startsWith("#")) {
      begun ??= { lines: [], place: `${document}:${index + 1}` };
      begun.lines.push(line);
      if (line.endsWith("\\")) continue;
      commands.push({ text: begun.lines.join("\n"), place: begun.place });
      begun = undefined;
    }
  }
  return commands;
}

/** Without the comment behind it. */
export function bareCommand({ text }: DocumentedCommand): string {
  return text.replace(/\s+# .*$/s, "").trim();
}
