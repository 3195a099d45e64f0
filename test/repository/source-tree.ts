import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

export interface SourceFile {
  /** From the root, like "src/oplog/keys.ts". */
  readonly path: string;
  /** Files of this repository that it imports, type-only imports included. */
  readonly imports: readonly string[];
  /** Packages and builtins, like "node:fs" or "@grpc/grpc-js". */
  readonly packages: readonly string[];
  /** Names used in the code, and pairs like "Date.now"; not what stands in comments and strings. */
  readonly names: ReadonlySet<string>;
}

export function sourceFiles(...folders: string[]): SourceFile[] {
  return folders.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
      .map((entry) => parse(relative(ROOT, join(entry.parentPath, entry.name)))),
  );
}

export function parse(path: string, text = readFileSync(join(ROOT, path), "utf8")): SourceFile {
  const specifiers = ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName);
  const isOwn = (specifier: string) => specifier.startsWith(".");
  return {
    path,
    imports: specifiers.filter(isOwn).map((specifier) => join(dirname(path), specifier).replace(/\.js$/, ".ts")),
    packages: specifiers.filter((specifier) => !isOwn(specifier)),
    names: namesIn(ts.createSourceFile(path, text, ts.ScriptTarget.Latest)),
  };
}

function namesIn(file: ts.SourceFile): Set<string> {
  const names = new Set<string>();
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node)) names.add(node.text);
    if (ts.isPropertyAccessExpression(node) && ts.isIdentifier(node.expression)) {
      names.add(`${node.expression.text}.${node.name.text}`);
    }
    if (ts.isNewExpression(node) && ts.isIdentifier(node.expression)) names.add(`new ${node.expression.text}`);
    ts.forEachChild(node, visit);
  };
  visit(file);
  return names;
}
