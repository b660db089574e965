/** The answer of /v1/read and of /v1/whatif: several pages, all at one epoch. */
import type { Readable } from 'node:stream'
import type { PageData } from '../../engine/types.js'
import { renderPieces } from './json-values.js'

/** The body: `{"epoch","pages":{name:{"dtype","shape","version","values"}}}`. */
export function renderRead(epoch: number, pages: Readonly<Record<string, PageData>>): string | Readable {
  const pieces: (string | PageData)[] = [`{"epoch":${epoch},"pages":{`]
  let separator = ''
  for (const data of Object.values(pages)) {
    const { name, dtype, shape, version } = data
    const head = JSON.stringify({ dtype, shape, version }).slice(0, -1)
    pieces.push(`${separator}"${name}":${head},"values":`, data, '}')
    separator = ','
  }
  pieces.push('}}')
  return renderPieces(pieces)
}
