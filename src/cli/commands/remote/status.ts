/** `mmsb status`: how a running server is. Exit code 1 if it does not answer. */
import type { Status } from '../../../client/types.js'
import { type CommandHelp, flagsOrHelp, HELP_FLAG, JSON_FLAG } from '../../flags.js'
import { columns, print, printJson, timeText } from '../../output.js'
import { SERVER_FLAGS, withServer } from '../../remote.js'

export const HELP: CommandHelp = {
  usage: 'mmsb status [OPTIONS]',
  flags: { ...SERVER_FLAGS, json: JSON_FLAG, help: HELP_FLAG },
  examples: [
    ['mmsb status', 'the server on this machine'],
    ['mmsb status --url https://bus.example.com --token-file desk.token', 'another one'],
    ['mmsb status --json | jq .epoch', 'its newest epoch'],
  ],
}

export async function status(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  await withServer(flags, async ({ client, url }) => {
    const now = await client.status()
    if (flags.switches.has('json')) printJson(now)
    else for (const line of columns(rowsOf(now, url))) print(line)
  })
}

function rowsOf(now: Status, url: string): (readonly [string, string])[] {
  const { state, reason, deviceLoss, device, digest } = now
  const why = reason === undefined ? '' : `: ${reason}`
  const named = typeof device?.name === 'string' ? ` (${device.name})` : ''
  return [
    ['server', `${url}, mmsb ${now.version}`],
    ['state', `${state}${why}${now.readOnly ? ', read only' : ''}, up for ${timeText(now.uptimeMs)}`],
    ['epoch', `${now.epoch}, readable from ${now.minEpoch}`],
    ['history', now.history],
    ...(digest === undefined ? [] : [['digest', digest] as const]),
    ['pages', String(now.pages)],
    ['backend', `${now.backend}${named}`],
    ...(deviceLoss === undefined
      ? []
      : [['device lost', `at epoch ${deviceLoss.epoch}: ${deviceLoss.reason}`] as const]),
    ['fsync', now.fsync],
  ]
}
