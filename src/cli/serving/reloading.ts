/**
 * SIGHUP: the configuration file, the files of `Access` and the level of the log are read again.
 *
 * Invariants: they are taken over together or not at all; if one has a mistake, what counted goes on to
 * count. Of the configuration file only `RELOADED` counts at once; the log names each other key that
 * has changed.
 */
import type { Logger } from 'pino'
import type { Auditor } from '../../audit/auditor.js'
import type { Tls } from '../../http/framework.js'
import type { Access, AccessFiles } from '../access.js'

/** Keys that count as soon as the file is read again. */
const RELOADED: ReadonlySet<string> = new Set(['log-level', 'principal-limits'])

/** The options as they would be at a start now, and the keys that have changed since the start. */
export type Reread = () => Promise<{
  readonly options: Pick<AccessFiles, 'principalLimits'> & { readonly logLevel: string }
  readonly changedKeys: readonly string[]
}>

export interface ReloadDeps {
  readonly access: Access
  /** Undefined: there is no configuration file. */
  readonly reread: Reread | undefined
  readonly renewTls: (tls: Tls) => void
  readonly logger: Logger
  readonly auditor: Auditor | undefined
}

export function reloadOnSignal(deps: ReloadDeps): void {
  const { access, reread, logger, auditor } = deps
  if (!access.hasFiles && reread === undefined) return
  // One after the other, so that the newest files count in the end.
  let last = Promise.resolve()
  process.on('SIGHUP', () => {
    last = last
      .then(() => reload(deps))
      .catch((error: unknown) => {
        void auditor?.note({ action: 'reload', outcome: 'failed', code: 'INVALID_REQUEST' })
        logger.error(
          `tokens, certificate and configuration were not taken over, the old ones go on to count: ${(error as Error).message}`,
        )
      })
  })
}

async function reload({ access, reread, renewTls, logger, auditor }: ReloadDeps): Promise<void> {
  const read = await reread?.()
  const changed = access.reload(renewTls, read?.options)
  if (read !== undefined) {
    logger.level = read.options.logLevel
    const keys = read.changedKeys.filter((key) => !RELOADED.has(key))
    if (keys.length > 0) logger.warn({ keys }, `need a restart to count: ${keys.join(', ')}`)
  }
  logger.info(access.fileNames, 'tokens, certificate and configuration were read again')
  void auditor?.note({ action: 'reload', outcome: 'done' })
  for (const target of changed) void auditor?.note({ action: 'changePrincipal', outcome: 'done', target })
}
