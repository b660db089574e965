/** Runs a TypeScript program as a document shows it, in its own folder. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname } from 'node:path'
import { plainEnvironment } from '../lib/environment.js'

/** Its exit code and what it wrote to standard output. */
export async function runProgram(file: string): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, ['--import', 'tsx', file], {
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
