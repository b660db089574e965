#!/usr/bin/env node
import { existsSync } from 'node:fs'

if (!existsSync(new URL('../dist/cli/main.js', import.meta.url))) {
  process.stderr.write('mmsb is not built yet: run `make build` first\n')
  process.exit(1)
}
const { main } = await import('../dist/cli/main.js')
await main(process.argv.slice(2))
