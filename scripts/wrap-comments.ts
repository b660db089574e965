/**
 * Wraps comments at 110 columns, which Biome leaves alone: `npx tsx scripts/wrap-comments.ts` rewrites the
 * TypeScript files of the house, `--check` only names the comments that are too wide. A paragraph with a wide
 * line is filled anew; all others stay as they are. List items keep their hanging indent; tables, code and
 * lines that must stand alone are not touched.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

export const COLUMNS = 110
/** A last line of fewer columns than this looks lost; lines may be this much narrower to avoid it. */
const LAST_LINE_MIN = 12
const NARROWER_MAX = 15
const FOLDERS = ['src', 'test', 'bench', 'examples', 'scripts']

/**
 * A line that nothing may be joined to and that is not filled: a table row, columns, a heading, a rule,
 * a directive.
 */
const FIXED = /^(\||#|```|=|-{3}|\+-|biome-ignore|@ts-|\/\/)|\S {3,}\S/
/** A ruler with a title: as long as there is room. */
const RULER = /^(-{3,} .* )-{3,}$/
/** What a list item or a tag begins with; its further lines hang below its text. */
const ITEM = /^([-*]|\d+[.)]|@\w+)\s+/
/** A line that begins a paragraph of its own, wherever it stands. */
const STANDS_ALONE = /^(Long|Null) because /

interface Comment {
  /** The first and the one past the last line. */
  readonly from: number
  readonly to: number
  readonly indent: string
  readonly kind: 'block' | 'lines'
}

const widthOf = (line: string): number => [...line].length

/** The comments of a file that stand on lines of their own; consecutive `//` lines are one comment. */
function commentsOf(text: string, lines: readonly string[], tree: ts.SourceFile): Comment[] {
  const comments: Comment[] = []
  const lineOf = (position: number): number => tree.getLineAndCharacterOfPosition(position).line
  for (const { pos, end, kind } of commentRangesOf(text, tree)) {
    const from = lineOf(pos)
    const to = lineOf(end) + 1
    const [indent] = /^\s*/.exec(lines[from]!)!
    const standsAlone = lines[from]!.slice(0, pos - tree.getLineStarts()[from]!).trim() === ''
    if (!standsAlone || text.slice(end).split('\n', 1)[0]!.trim() !== '') continue
    const last = comments.at(-1)
    if (kind === ts.SyntaxKind.MultiLineCommentTrivia) comments.push({ from, to, indent, kind: 'block' })
    else if (last?.kind === 'lines' && last.to === from && last.indent === indent)
      comments[comments.length - 1] = { ...last, to }
    else comments.push({ from, to, indent, kind: 'lines' })
  }
  return comments
}

/**
 * Every comment, by the tokens it stands before or behind, so that a `//` in a string or a template is none.
 */
function commentRangesOf(text: string, tree: ts.SourceFile): ts.CommentRange[] {
  const found = new Map<number, ts.CommentRange>()
  const visit = (node: ts.Node): void => {
    const children = node.getChildren(tree).filter((child) => !ts.isJSDoc(child))
    for (const child of children) visit(child)
    if (children.length > 0) return
    for (const range of ts.getLeadingCommentRanges(text, node.getFullStart()) ?? [])
      found.set(range.pos, range)
    for (const range of ts.getTrailingCommentRanges(text, node.end) ?? []) found.set(range.pos, range)
  }
  visit(tree)
  return [...found.values()].sort((a, b) => a.pos - b.pos)
}

/** Fills words into lines of a width: the first after `lead`, the others after `hang`. */
function fill(words: readonly string[], width: number, lead: string, hang: string): string[] {
  const filled: string[] = []
  let line = lead
  let isEmpty = true
  for (const word of words) {
    if (!isEmpty && widthOf(line) + 1 + widthOf(word) > width) {
      filled.push(line)
      line = hang
      isEmpty = true
    }
    line += isEmpty ? word : ` ${word}`
    isEmpty = false
  }
  return [...filled, line]
}

/** Fills, and narrows the lines a little where a short word or two would stand alone on the last one. */
function fillEvenly(words: readonly string[], width: number, lead: string, hang: string): string[] {
  const filled = fill(words, width, lead, hang)
  if (filled.length === 1) return filled
  for (let narrower = width; narrower > width - NARROWER_MAX; narrower--) {
    const lines = fill(words, narrower, lead, hang)
    if (lines.length > filled.length) break
    if (widthOf(lines.at(-1)!) - hang.length >= LAST_LINE_MIN) return lines
  }
  return filled
}

/** Prose without its comment marks, each paragraph with a wide line filled to `width`. */
export function fillProse(prose: readonly string[], width: number): string[] {
  const out: string[] = []
  let isCode = false
  for (let at = 0; at < prose.length; ) {
    const first = prose[at]!
    if (first.startsWith('```')) isCode = !isCode
    if (RULER.test(first) && widthOf(first) > width) {
      out.push(first.slice(0, width))
      at++
      continue
    }
    if (isCode || first.trim() === '' || FIXED.test(first) || /^ {4}/.test(first)) {
      out.push(first)
      at++
      continue
    }
    const [lead] = /^\s*/.exec(first)!
    const item = ITEM.exec(first.slice(lead.length))?.[0] ?? ''
    const hang = item === '' ? lead : item.startsWith('@') ? `${lead}  ` : lead + ' '.repeat(item.length)
    const isFurther = (line: string): boolean =>
      line.trim() !== '' &&
      !FIXED.test(line) &&
      !ITEM.test(line.trimStart()) &&
      !STANDS_ALONE.test(line) &&
      /^\s*/.exec(line)![0] === (item.startsWith('@') ? /^\s*/.exec(line)![0] : hang)
    let end = at + 1
    while (end < prose.length && isFurther(prose[end]!)) end++
    const paragraph = prose.slice(at, end)
    if (paragraph.some((line) => widthOf(line) > width)) {
      const words = paragraph
        .join(' ')
        .slice(lead.length + item.length)
        .split(/\s+/)
        .filter(Boolean)
      out.push(...fillEvenly(words, width, lead + item, hang))
    } else out.push(...paragraph)
    at = end
  }
  return out
}

function wrapped(lines: readonly string[], { indent, kind }: Comment): string[] {
  if (kind === 'lines') {
    const prose = lines.map((line) => line.slice(indent.length).replace(/^\/\/ ?/, ''))
    return fillProse(prose, COLUMNS - indent.length - 3).map((line) => `${indent}// ${line}`.trimEnd())
  }
  const opening = /^\/\*\*?/.exec(lines[0]!.trimStart())![0]
  const inside = lines
    .map((line, i) => (i === 0 ? line.trimStart().slice(opening.length) : line.replace(/^\s*\* ?(?!\/)/, '')))
    .map((line, i) => (i === 0 ? line.replace(/^ /, '') : line))
  inside[inside.length - 1] = inside.at(-1)!.replace(/\s*\*\/$/, '')
  while (inside.length > 0 && inside[0]!.trim() === '') inside.shift()
  while (inside.length > 0 && inside.at(-1)!.trim() === '') inside.pop()
  const prose = fillProse(inside, COLUMNS - indent.length - 3)
  return [`${indent}${opening}`, ...prose.map((line) => `${indent} * ${line}`.trimEnd()), `${indent} */`]
}

/** A file's text with every wide comment wrapped; the same text where there is none. */
export function wrapComments(text: string): string {
  const lines = text.split('\n')
  const tree = ts.createSourceFile('a.ts', text, ts.ScriptTarget.ES2023, true)
  for (const comment of commentsOf(text, lines, tree).reverse()) {
    const own = lines.slice(comment.from, comment.to)
    if (!own.some((line) => widthOf(line) > COLUMNS)) continue
    lines.splice(comment.from, comment.to - comment.from, ...wrapped(own, comment))
  }
  return lines.join('\n')
}

/**
 * The numbers, from 1, of the lines of comments that are wider than they may be. A line of one
 * word cannot be broken.
 */
export function wideCommentLines(text: string): number[] {
  const lines = text.split('\n')
  const wide = new Set<number>()
  // Most files have no wide line at all, and parsing them all takes seconds.
  if (!lines.some((line) => widthOf(line) > COLUMNS)) return []
  const tree = ts.createSourceFile('a.ts', text, ts.ScriptTarget.ES2023, true)
  for (const { pos, end } of commentRangesOf(text, tree)) {
    const from = tree.getLineAndCharacterOfPosition(pos).line
    const to = tree.getLineAndCharacterOfPosition(end).line
    for (let line = from; line <= to; line++) {
      const words = lines[line]!.trim()
        .split(/\s+/)
        .filter((word) => !/^(\/\/|\/?\*+\/?)$/.test(word))
      if (widthOf(lines[line]!) > COLUMNS && words.length > 1) wide.add(line + 1)
    }
  }
  return [...wide].sort((a, b) => a - b)
}

function main(): void {
  const root = fileURLToPath(new URL('..', import.meta.url))
  const isCheck = process.argv.includes('--check')
  for (const folder of FOLDERS) {
    for (const name of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).sort()) {
      if (!name.endsWith('.ts')) continue
      const path = join(root, folder, name)
      const before = readFileSync(path, 'utf8')
      const after = isCheck ? before : wrapComments(before)
      if (after !== before) writeFileSync(path, after)
      for (const line of wideCommentLines(after)) {
        process.exitCode = 1
        console.log(`${folder}/${name}:${line}: a comment of more than ${COLUMNS} columns`)
      }
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main()
