/**
 * Runs a TypeScript program as a document shows it, in its own folder. It loses its types here: a process
 * that loads tsx for that needs half a second more.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { transformSync } from 'esbuild'
import { plainEnvironment } from '../lib/environment.js'

/** Its exit code and what it wrote to standard output. */
export async function runProgram(file: string): Promise<{ code: number | null; output: string }> {
  const compiled = file.replace(/ts$/, 'js')
  const options = { loader: 'ts', target: `node${process.versions.node}`, sourcefile: file } as const
  writeFileSync(compiled, transformSync(readFileSync(file, 'utf8'), options).code)
  const child = spawn(process.execPath, [compiled], {
    cwd: dirname(file),
    env: plainEnvironment(),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  const [code] = await once(child, 'close')
  return { code: code as number | null, output }
}
