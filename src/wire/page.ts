/**
 * What both sides say about pages and changes to them: names, kinds, locations, merges.
 *
 * Invariant: codes in frames and log records are positions in these tables, so entries are only ever
 * added at the end.
 */

/** Names of pages, functions and durable subscriptions. */
export const NAME_PATTERN = '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}$'
export const NAME_MAX_LENGTH = 200
export const PAGE_MAX_RANK = 8

export const LOCATIONS = ['auto', 'cpu', 'gpu', 'unified'] as const
/** Where the memory of a page is requested. */
/** Where the memory of a page is requested. */
export type Location = (typeof LOCATIONS)[number]

export const PAGE_KINDS = ['source', 'derived'] as const
/** `source`: written by clients; `derived`: computed. */
export type PageKind = (typeof PAGE_KINDS)[number]

/** What happened to a page. A snapshot uses the first two only. */
export const CHANGE_KINDS = [...PAGE_KINDS, 'created', 'deleted'] as const
export type ChangeKind = (typeof CHANGE_KINDS)[number]

export const MERGES = ['set', 'add', 'min', 'max', 'and', 'or', 'xor'] as const
/** How a delta combines a value with the element it meets. */
/** How a delta combines its values with the elements they meet. */
export type Merge = (typeof MERGES)[number]

/** Merges from this code on work on bits; float dtypes do not have them. */
export const FIRST_BITWISE_MERGE = MERGES.indexOf('and')
