// The install step of the npm package. Where the native library of the package fits, it does nothing. Elsewhere it
// builds one, or says what it misses. It never fails, because mmsb/client works without a native library.
// npm shows what it prints with `--foreground-scripts`; the server says the same when it is started.
import { existsSync } from 'node:fs'

/** In a checkout, make builds everything. */
const isCheckout = existsSync(new URL('../test/', import.meta.url))

async function install() {
  const { buildLibrary, builtLibrary, hasPrebuilt, thisMachine } = await import('../dist/ffi/library-file.js')
  const machine = thisMachine()
  const fromSource = ['true', 'mmsb'].includes(process.env.npm_config_build_from_source ?? '')
  if (hasPrebuilt(machine) && !fromSource) return
  const failure = buildLibrary(machine, { cpuOnly: true, output: 'kept' })
  process.stderr.write(`mmsb: ${failure ?? `built ${builtLibrary()}`}\n`)
}

if (!isCheckout) {
  await install().catch((error) => process.stderr.write(`mmsb: the install step failed: ${error}\n`))
}
