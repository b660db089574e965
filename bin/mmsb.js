#!/usr/bin/env node
// The command line's entry: says what is missing where the build is, else hands over to src/cli.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
if (!existsSync(main)) {
  process.stderr.write('mmsb: not built yet; run `make build` first\n')
  process.exit(1)
}
const { run } = await import(main)
await run(process.argv.slice(2))
