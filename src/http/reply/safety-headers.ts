/**
 * Headers that keep browsers from misusing an answer: it is taken for what its type says, no other site
 * frames or embeds it, and no cache keeps it.
 *
 * Invariants: what a browser can be made to load or show has them, so every answer to GET and HEAD and every
 * problem. Answers to writes, which only a program reads, go without: they cost a PATCH about a
 * tenth of its time. Pages and documents, which browsers show and may keep, have others (documents/shown.ts).
 */

/** Of problems. */
export const SAFETY_HEADERS = {
  'x-content-type-options': 'nosniff',
  'cross-origin-resource-policy': 'same-origin',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
} as const

/** Of answers to GET and HEAD, which caches would keep. */
export const NOT_KEPT_HEADERS = { ...SAFETY_HEADERS, 'cache-control': 'no-store' } as const
