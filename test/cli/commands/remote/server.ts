/** A served bus for the commands of this folder: `a`, its double `b`, and a counter of 64-bit integers. */
import type { Test } from 'tap'
import { UsageError } from '../../../../src/cli/flags.js'
import { type Client, connect } from '../../../../src/client/node.js'
import { folder } from '../../../lib/folder.js'
import { type Process, run, serve } from '../../process.js'

export interface Served {
  readonly url: string
  readonly client: Client
  readonly server: Process
  readonly dataDir: string
  /** Runs a command with `--url`. */
  readonly mmsb: (command: string, ...args: string[]) => ReturnType<typeof run>
}

export async function served(t: Test, ...flags: string[]): Promise<Served> {
  const dataDir = folder(t)
  const server = serve(t, ['--data-dir', dataDir, ...flags])
  const url = await server.ready()
  const client = connect(url)
  t.teardown(() => client.close())
  await client.create('a', { dtype: 'f64', shape: [2, 3] })
  await client.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a * 2' })
  await client.create('n', { dtype: 'i64', shape: [2] })
  await client.write('a', [1, 2, 3, 4, 5, 6])
  await client.write('n', [-1n, 9007199254740993n])
  return { url, client, server, dataDir, mmsb: (command, ...args) => run([command, '--url', url, ...args]) }
}

/** The JSON of a command that printed one line. */
export const jsonOf = <T>({ stdout }: { readonly stdout: string }): T => JSON.parse(stdout) as T

/** How a command ended that was called in this process: its exit code, and the line of its error. */
export async function ended(
  command: (args: readonly string[]) => Promise<void>,
  args: readonly string[],
): Promise<{ readonly code: number; readonly line: string }> {
  try {
    await command(args)
    return { code: 0, line: '' }
  } catch (error) {
    return { code: error instanceof UsageError ? 2 : 1, line: (error as Error).message }
  }
}
