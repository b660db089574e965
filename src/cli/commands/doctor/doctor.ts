/**
 * `mmsb doctor`: whether a data folder and this machine, or a running server, are as they should be. Nothing
 * is changed. Exit code 0: no check failed; 1: one did.
 */
import { resolve } from 'node:path'
import { MmsbError } from '../../../client/node.js'
import { MEMORY_QUOTA_DEFAULT_BYTES } from '../../../limits.js'
import {
  bytesOf,
  type CommandHelp,
  type CommandLine,
  DATA_DIR_FLAG,
  dataDirOf,
  HELP_FLAG,
  JSON_FLAG,
  lineOrHelp,
  UsageError,
} from '../../flags.js'
import { counted, print, printJson } from '../../output.js'
import { explained, SERVER_FLAGS, withServer } from '../../remote.js'
import { type Finding, failed, type Level } from './finding.js'
import { folderFindings } from './folder.js'
import { machineFindings } from './machine.js'
import { serverFindings } from './server.js'

const { url: _url, ...ACCESS } = SERVER_FLAGS

export const HELP: CommandHelp = {
  usage: 'mmsb doctor [DIR] [OPTIONS]\n       mmsb doctor --url URL [OPTIONS]',
  flags: {
    'data-dir': { ...DATA_DIR_FLAG, help: 'the same as DIR' },
    'memory-limit': {
      value: 'SIZE',
      help: 'what the server is started with',
      env: 'MMSB_MEMORY_LIMIT',
      standard: '8g',
    },
    url: { value: 'URL', help: 'ask this server instead' },
    ...ACCESS,
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [
    ['mmsb doctor ./data', 'the folder, its disk and this machine, before a server is started'],
    ['mmsb doctor --url http://127.0.0.1:7411', 'a running server'],
    ['mmsb doctor ./data --json | jq .ok', 'for a script'],
  ],
  operands: 'folders',
}

export async function doctor(args: readonly string[]): Promise<void> {
  const line = lineOrHelp(args, HELP)
  if (line === undefined) return
  const isRemote = line.values.has('url')
  const [dir, extra] = line.operands
  if (extra !== undefined) throw new UsageError(`unexpected argument ${JSON.stringify(extra)}`)
  if (dir !== undefined && (isRemote || line.values.get('data-dir')?.from === '--data-dir'))
    throw new UsageError('give either DIR, --data-dir or --url')
  const findings = isRemote ? await ofServer(line) : await ofFolder(line, dir)
  const failures = findings.filter(({ level }) => level === 'failed').length
  if (failures > 0) process.exitCode = 1
  if (line.switches.has('json')) printJson({ ok: failures === 0, findings })
  else printFindings(findings, failures)
}

async function ofFolder(line: CommandLine, dir: string | undefined): Promise<Finding[]> {
  const given = line.values.get('memory-limit')
  const memoryLimit = given === undefined ? MEMORY_QUOTA_DEFAULT_BYTES : bytesOf(given)
  const folder = dir === undefined ? dataDirOf(line) : resolve(dir)
  return [...(await machineFindings(memoryLimit)), ...(await folderFindings(folder))]
}

async function ofServer(line: CommandLine): Promise<Finding[]> {
  return withServer(line, async (server) => {
    try {
      return await serverFindings(server)
    } catch (error) {
      if (!(error instanceof MmsbError)) throw error
      const reason = explained(error, server.url)
      if (reason instanceof UsageError) throw reason
      return [failed('server', reason.message, 'See its log, and `mmsb doctor DIR` on its machine.')]
    }
  })
}

const LABELS: Readonly<Record<Level, string>> = {
  ok: 'ok',
  note: 'note',
  warning: 'WARNING',
  failed: 'FAILED',
}

function printFindings(findings: readonly Finding[], failures: number): void {
  const labelWidth = Math.max(...Object.values(LABELS).map((label) => label.length))
  const nameWidth = Math.max(...findings.map(({ name }) => name.length))
  for (const { name, level, detail, advice } of findings) {
    print(`${LABELS[level].padEnd(labelWidth)}  ${name.padEnd(nameWidth)}  ${detail}`)
    if (advice !== undefined) print(`${' '.repeat(labelWidth + nameWidth + 4)}${advice}`)
  }
  const warnings = findings.filter(({ level }) => level === 'warning').length
  const found = [
    ...(failures > 0 ? [`${counted(failures, 'check')} failed`] : []),
    ...(warnings > 0 ? [counted(warnings, 'warning')] : []),
  ]
  print(found.length === 0 ? 'everything is as it should be' : found.join(', '))
}
