/**
 * A writer and a subscriber whose tokens are replaced while they run; for nginx.test.ts.
 *
 * Arguments: the URL of the server, and the folder with the tokens in the files `writer` and `reader`. Writes
 * until standard input ends, then prints what was written and seen, as JSON.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect, type MmsbError } from '../../src/client/node.js'
import { sleep } from '../lib/wait.js'

const [url = '', dir = ''] = process.argv.slice(2)
let asked = 0
const clientOf = (id: string) =>
  connect(url, {
    token: () => {
      asked++
      return readFileSync(join(dir, id), 'utf8')
    },
  })

const [writer, reader] = [clientOf('writer'), clientOf('reader')]
await writer.create('feed.count', { dtype: 'u32', shape: [1] })
const foreign = await reader.patch('feed.other', { values: [1] }).catch(({ status }: MmsbError) => status)

let isOver = false
process.stdin.resume().once('end', () => {
  isOver = true
})

let written = 0
let seen = 0
/** The last value, once it is known. */
let last: number | undefined
let wrong: string | undefined
let begin = (): void => {}
const hasBegun = new Promise<void>((resolve) => {
  begin = resolve
})
const reading = (async () => {
  for await (const message of reader.subscribe({ pages: ['feed.*'], from: 'snapshot' })) {
    if (message.type === 'snapshot') begin()
    if (message.type !== 'change') continue
    const value = Number(message.changes[0]?.values?.[0])
    if (value !== seen + 1) wrong ??= `${value} after ${seen}`
    seen = value
    if (seen === last) return
  }
})()

await hasBegun
process.stdout.write('reading\n')
while (!isOver) {
  await writer.patch('feed.count', { values: [written + 1] })
  written++
  await sleep(5)
}
// One more, which tells the subscriber that it was the last.
last = ++written
await writer.patch('feed.count', { values: [last] })
await reading
await Promise.all([writer.close(), reader.close()])
process.stdout.write(`${JSON.stringify({ written, seen: wrong ?? seen, asked, foreign })}\n`)
