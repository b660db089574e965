#!/usr/bin/env node
// Entry of the command line: runs src/cli as it was built, or says that the build is missing.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
if (!existsSync(main)) {
  process.stderr.write('mmsb: not built yet; run `make build` first\n')
  process.exit(1)
}
const { run } = await import(main)
await run(process.argv.slice(2))
