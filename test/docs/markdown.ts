/** Reads just enough Markdown for the tests that bind documents to code: fenced blocks, tables and links. */
import { readdirSync, readFileSync } from 'node:fs'
import { ROOT } from '../lib/place.js'

export function readDocument(path: string): string {
  return readFileSync(`${ROOT}/${path}`, 'utf8')
}

/** Every document below docs/, as paths from the root of the repository. */
export function documentPaths(): string[] {
  const names = readdirSync(`${ROOT}/docs`, { recursive: true, encoding: 'utf8' })
  return names.filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)
}

export interface Block {
  readonly language: string
  readonly text: string
  /** The last line of prose before the block; other blocks may stand between. */
  readonly before: string
}

export function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = []
  for (const match of markdown.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)) {
    const prose = withoutBlocks(markdown.slice(0, match.index))
    const before = prose.trimEnd().split('\n').at(-1) ?? ''
    blocks.push({ language: match[1]!, text: match[2]!, before })
  }
  return blocks
}

function withoutBlocks(markdown: string): string {
  return markdown.replace(/^```[\s\S]*?^```$/gm, '')
}

/** Rows of all tables, header and rule left out; cells trimmed. A bar inside a cell is written `\|`. */
export function tableRowsOf(markdown: string): string[][] {
  const rows: string[][] = []
  const lines = markdown.split('\n')
  let isBody = false
  for (const line of lines) {
    if (/^\|[\s:|-]+\|$/.test(line)) isBody = true
    else if (!line.startsWith('|')) isBody = false
    else if (isBody) {
      rows.push(
        line
          .slice(1, line.lastIndexOf('|'))
          .split(/(?<!\\)\|/)
          .map((cell) => cell.trim().replaceAll('\\|', '|')),
      )
    }
  }
  return rows
}

/** Targets of links, without code blocks. */
export function linksOf(markdown: string): string[] {
  return [...withoutBlocks(markdown).matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!)
}
