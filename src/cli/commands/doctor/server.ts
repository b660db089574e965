/** Checks of a running server, by what it says of itself. What the token may not see is left out. */
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../../../client/node.js'
import type { Checkpoint, Stats, Status } from '../../../client/types.js'
import { VERSION } from '../../../engine/version.js'
import { CHECKPOINT_EVERY_EPOCHS } from '../../../limits.js'
import { counted, sizeText, timeText } from '../../output.js'
import type { Server } from '../../remote.js'
import { type Finding, failed, note, ok, warning } from './finding.js'

const ROUND_TRIPS = 5
const APPEND_SLOW_MS = 50
const MEMORY_HIGH_SHARE = 0.9
const QUEUE_LONG = 1_000
const LAG_HIGH = 10_000

/** @throws MmsbError when the server does not answer */
export async function serverFindings({ client, url }: Server): Promise<Finding[]> {
  const times: number[] = []
  let status: Status | undefined
  for (let i = 0; i < ROUND_TRIPS; i++) {
    const beganMs = performance.now()
    status = await client.status()
    times.push(performance.now() - beganMs)
  }
  const stats = await client.stats()
  let checkpoints: readonly Checkpoint[] | undefined
  try {
    ;({ checkpoints } = await client.checkpoints())
  } catch (error) {
    if (!(error instanceof MmsbError) || error.status !== 403) throw error
  }
  const answer = ok('server', `${url} answers in ${timeText(Math.min(...times))}`)
  return [
    answer,
    ...statusFindings(status as Status),
    ...statsFindings(stats),
    ...checkpointFindings(stats, checkpoints),
  ]
}

export function statusFindings(status: Status): Finding[] {
  const { version, state, reason = '', readOnly, fsync, backend, deviceLoss, device, uptimeMs } = status
  const findings: Finding[] = []
  if (state === 'failed')
    findings.push(
      failed('state', `the bus has stopped: ${reason}`, 'Mend the cause, and restart the server.'),
    )
  else if (state === 'stopping')
    findings.push(warning('state', 'the server is stopping', 'Wait, or start it again.'))
  else findings.push(ok('state', `${state}${readOnly ? ', read only' : ''}, up for ${timeText(uptimeMs)}`))
  findings.push(
    version === VERSION
      ? ok('version', version)
      : warning(
          'version',
          `the server has ${version}, this command ${VERSION}`,
          'Use the same release for both.',
        ),
  )
  if (!readOnly)
    findings.push(
      fsync === 'always'
        ? ok('fsync', 'always')
        : warning(
            'fsync',
            `${fsync}: a crash may lose epochs that were acknowledged`,
            'Use --fsync always where that matters.',
          ),
    )
  if (deviceLoss !== undefined)
    findings.push(
      warning(
        'gpu',
        `lost at epoch ${deviceLoss.epoch}: ${deviceLoss.reason}; the CPU computes`,
        'Restart the server when the GPU works again.',
      ),
    )
  else
    findings.push(ok('backend', typeof device?.name === 'string' ? `${backend} (${device.name})` : backend))
  return findings
}

export function statsFindings({ pages, log, queue, subscriptions }: Stats): Finding[] {
  const findings: Finding[] = []
  const { bytes, quotaBytes } = pages
  if (quotaBytes !== undefined) {
    const detail = `${sizeText(bytes)} of ${sizeText(quotaBytes)}`
    findings.push(
      bytes > quotaBytes * MEMORY_HIGH_SHARE
        ? warning('memory', detail, 'Delete pages, or raise --memory-limit.')
        : ok('memory', detail),
    )
  }
  if (log) {
    const p99Ms = log.appendUs.p99 / 1000
    const detail = `${sizeText(log.bytes)}, a durable append takes ${timeText(log.appendUs.p50 / 1000)} (p50), ${timeText(p99Ms)} (p99)`
    if (log.failure !== null)
      findings.push(failed('log', log.failure, 'Mend the disk, and restart the server.'))
    else if (p99Ms > APPEND_SLOW_MS)
      findings.push(warning('log', detail, 'Look at the disk: `mmsb doctor DIR` measures it.'))
    else findings.push(ok('log', detail))
  }
  if (queue !== undefined) {
    const detail = `${counted(queue.transactions, 'transaction')} waiting`
    findings.push(
      queue.transactions > QUEUE_LONG
        ? warning('queue', detail, 'Writers are faster than the server: see `mmsb top`.')
        : ok('queue', detail),
    )
  }
  return subscriptions === undefined
    ? [...findings, note('rights', 'the log, the queue and the readers are for tokens that read all pages')]
    : [...findings, ...readerFindings(subscriptions)]
}

function readerFindings({ connections, overflows, durable }: NonNullable<Stats['subscriptions']>): Finding[] {
  const findings: Finding[] = []
  for (const { name, lag, connected, held } of durable) {
    const what = `${name} is ${lag ?? 'all'} epochs behind, and ${connected ? 'connected' : 'away'}`
    if (!held)
      findings.push(
        warning(
          'reader',
          `${what}; its history is kept no longer`,
          'It must begin anew; delete it if it is not wanted, or raise --durable-hold.',
        ),
      )
    else if ((lag ?? 0) > LAG_HIGH)
      findings.push(
        warning('reader', `${what}; history is kept for it`, 'See why it does not read, or delete it.'),
      )
  }
  if (overflows > 0)
    findings.push(note('readers', `${counted(overflows, 'overflow')} of slow readers since the start`))
  if (findings.length === 0)
    findings.push(ok('readers', `${counted(connections, 'connection')}, ${durable.length} durable`))
  return findings
}

export function checkpointFindings(
  { epoch }: Stats,
  checkpoints: readonly Checkpoint[] | undefined,
): Finding[] {
  if (checkpoints === undefined) return []
  const newest = Math.max(0, ...checkpoints.map((checkpoint) => checkpoint.epoch))
  const behind = epoch - newest
  if (checkpoints.length === 0 && behind <= CHECKPOINT_EVERY_EPOCHS)
    return [note('checkpoint', `none yet; a start replays ${counted(epoch, 'epoch')}`)]
  const detail = `the newest is ${counted(behind, 'epoch')} old`
  if (behind <= 2 * CHECKPOINT_EVERY_EPOCHS) return [ok('checkpoint', detail)]
  return [
    warning(
      'checkpoint',
      detail,
      'A start replays them all: run `mmsb checkpoint`, and see the log of the server.',
    ),
  ]
}
