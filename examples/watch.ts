/**
 * Prints every change of pages, one JSON line per message, until Ctrl-C:
 *
 *   npx tsx examples/watch.ts [--url http://127.0.0.1:7411] [PATTERN...]      default: all pages
 */
import { parseArgs } from 'node:util'
import { WebSocket } from 'ws'

const { values, positionals } = parseArgs({
  options: { url: { type: 'string', default: 'http://127.0.0.1:7411' } },
  allowPositionals: true,
})
const pages = positionals.length > 0 ? positionals : ['*']

const socket = new WebSocket(`${values.url.replace(/^http/, 'ws')}/v1/stream`, 'mmsb.v1.json')
socket.on('open', () => {
  socket.send(JSON.stringify({ type: 'subscribe', id: 'watch', pages, from: 'now', data: 'values' }))
})
socket.on('message', (message) => process.stdout.write(`${message}\n`))
socket.on('close', (code, reason) => {
  process.stderr.write(`the connection was closed (${code}${reason.length > 0 ? `: ${reason}` : ''})\n`)
  process.exit(0)
})
socket.on('error', (error) => {
  process.stderr.write(`${error.message}\n`)
  process.exit(1)
})
