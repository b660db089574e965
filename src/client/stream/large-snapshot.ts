/**
 * A snapshot that is too large for one message. Its pages are read over HTTP one after another, each at its
 * own epoch; the changes since before the first read then bring them to one epoch.
 *
 * Invariant: once complete, all pages belong to the epoch of the last change taken. A change that a page
 * already contained when it was read is not applied again, since that would take the page back.
 *
 * Null because the list of pages ends with a cursor that is null.
 */
import { MmsbError } from '../errors.js'
import { LIST_PART, WHOLE_TIMEOUT_MS } from '../limits.js'
import type { CallOptions, Change, ChangedPage, Page, PageData, ReadOptions, Status } from '../types.js'
import { applyChange, type MirroredPage } from './mirrored-page.js'

export interface WholePages {
  /** Changes after this epoch have to be applied. */
  readonly from: number
  readonly pages: readonly (PageData & { readonly kind: 'source' | 'derived' })[]
}

export class LargeSnapshot {
  readonly #pages = new Map<string, MirroredPage>()
  readonly #read = new Map<string, WholePages['pages'][number]>()
  readonly #completeAt: number

  constructor({ from, pages }: WholePages) {
    for (const page of pages) {
      this.#pages.set(page.name, page)
      this.#read.set(page.name, page)
    }
    this.#completeAt = Math.max(from, ...pages.map(({ version }) => version))
  }

  /** Whether the pages belong to one epoch, once all changes up to `epoch` were taken. */
  isComplete(epoch: number): boolean {
    return epoch >= this.#completeAt
  }

  take({ epoch, changes }: Change): void {
    for (const change of changes) {
      const { page, kind } = change
      if (epoch <= (this.#read.get(page)?.version ?? -1)) continue
      // A page that could not be read is about to be deleted.
      if (kind === 'created' || this.#pages.has(page)) applyChange(this.#pages, change)
    }
  }

  /** The pages as a snapshot message. */
  snapshot(epoch: number): Change {
    const changes = [...this.#pages.values()].map(
      ({ name, dtype, shape, values }): ChangedPage => ({
        page: name,
        kind: this.#read.get(name)?.kind ?? 'source',
        dtype,
        shape,
        ranges: [[0, values.length]],
        values,
      }),
    )
    return { type: 'snapshot', epoch, first: epoch, changes }
  }
}

/** What readWhole needs from a client. */
export interface WholeReader {
  status(options: CallOptions): Promise<Status>
  page(name: string, options: CallOptions): Promise<Page>
  pages(
    query: { readonly limit: number; readonly cursor?: string },
    options: CallOptions,
  ): Promise<{ readonly pages: readonly Page[]; readonly next: string | null }>
  read(name: string, options: ReadOptions): Promise<PageData>
}

/** Reads the pages that match names or patterns, one after another. Pages deleted meanwhile are left out. */
export async function readWhole(
  client: WholeReader,
  patterns: readonly string[],
  signal: AbortSignal,
): Promise<WholePages> {
  const { epoch: from } = await client.status({ signal })
  const pages: WholePages['pages'][number][] = []
  for (const { name, kind } of await matching(client, patterns, signal)) {
    const data = await unlessGone(client.read(name, { signal, timeoutMs: WHOLE_TIMEOUT_MS }))
    if (data !== undefined) pages.push({ ...data, kind })
  }
  return { from, pages }
}

async function matching(
  client: WholeReader,
  patterns: readonly string[],
  signal: AbortSignal,
): Promise<readonly Page[]> {
  if (!patterns.some((pattern) => pattern.includes('*'))) {
    const names = [...new Set(patterns)]
    const found = await Promise.all(names.map((name) => unlessGone(client.page(name, { signal }))))
    return found.filter((page) => page !== undefined)
  }
  const found: Page[] = []
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const query = cursor === undefined ? {} : { cursor }
    const part = await client.pages({ ...query, limit: LIST_PART }, { signal })
    found.push(...part.pages.filter(({ name }) => patterns.some((pattern) => matches(pattern, name))))
    cursor = part.next
  }
  return found
}

/** Whether a name matches a pattern in which `*` stands for any run of characters. */
export function matches(pattern: string, name: string): boolean {
  const [head = '', ...rest] = pattern.split('*')
  const tail = rest.pop()
  if (tail === undefined) return pattern === name
  if (name.length < head.length + tail.length || !name.startsWith(head) || !name.endsWith(tail)) return false
  let at = head.length
  const end = name.length - tail.length
  for (const part of rest) {
    const found = name.indexOf(part, at)
    if (found < 0 || found + part.length > end) return false
    at = found + part.length
  }
  return true
}

async function unlessGone<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof MmsbError && error.code === 'PAGE_NOT_FOUND') return undefined
    throw error
  }
}
