/**
 * A server process whose main thread can be held: each line on standard input is a number of ms for which it
 * does nothing else. The product has no such means.
 */
import { createInterface } from 'node:readline'
import { startServer } from '../../../src/cli/server.js'

const [dataDir = ''] = process.argv.slice(2)

createInterface({ input: process.stdin }).on('line', (line) => {
  const endMs = performance.now() + Number(line)
  process.stderr.write('held\n')
  while (performance.now() < endMs);
})

await startServer({
  port: 0,
  host: '127.0.0.1',
  logLevel: 'info',
  isInsecure: false,
  allowedOrigins: new Set(),
  admin: { host: '127.0.0.1', port: 0 },
  bus: { dataDir, backend: 'cpu', threads: 1 },
})
