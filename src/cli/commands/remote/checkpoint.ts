/** `mmsb checkpoint`: makes a running server write a checkpoint, and waits until it is durable. */
import { type CommandHelp, flagsOrHelp, HELP_FLAG, JSON_FLAG } from '../../flags.js'
import { counted, result, sizeText, timeText } from '../../output.js'
import { SERVER_FLAGS, withServer } from '../../remote.js'

export const HELP: CommandHelp = {
  usage: 'mmsb checkpoint [OPTIONS]',
  flags: {
    ...SERVER_FLAGS,
    timeout: {
      value: 'TIME',
      help: 'how long to wait, such as 10m; the server goes on',
      standard: 'no limit',
    },
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [['mmsb checkpoint', 'write a checkpoint of the newest epoch, before an upgrade for example']],
}

export async function checkpoint(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  await withServer(
    flags,
    async ({ client }) => {
      const made = await client.checkpoint()
      const { epoch, pages, bytes, newBytes, ms } = made
      result(
        flags,
        made,
        `checkpoint of epoch ${epoch}: ${counted(pages, 'page')}, ${sizeText(bytes)}, of which ${sizeText(newBytes)} written, in ${timeText(ms)}`,
      )
    },
    Number.POSITIVE_INFINITY,
  )
}
