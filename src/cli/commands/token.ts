/** `mmsb token`: the principals of a token file and their tokens. */
import { userInfo } from 'node:os'
import { pino } from 'pino'
import { limitsFault, type PrincipalLimits } from '../../auth/limits/principal-limits.js'
import { addToken, readEntries, revokeToken } from '../../auth/token-file.js'
import { MmsbError } from '../../errors.js'
import { AUTH_FILE_FLAG } from '../auth-flags.js'
import {
  type CommandHelp,
  flagsOrHelp,
  type Given,
  HELP_FLAG,
  JSON_FLAG,
  type ParsedFlags,
  UsageError,
} from '../flags.js'
import { print, printJson, report } from '../output.js'
import { openAuditor } from '../serving/auditing.js'

const USAGE = `mmsb token create ID --auth-file FILE --scope SCOPES [--expires TIME] [--limits JSON]
       mmsb token list --auth-file FILE
       mmsb token revoke ID --auth-file FILE [--older]

With --data-dir, the audit trail of that folder says who made or revoked a token.

A running server takes the change over on SIGHUP. SCOPES are separated by commas, such as
read:risk.*,write:desk.orders, or --scope is given for each; the verbs are read, write, define, history, functions, admin and metrics.`

export const HELP: CommandHelp = {
  usage: USAGE,
  flags: {
    'auth-file': AUTH_FILE_FLAG,
    scope: {
      value: 'SCOPES',
      isList: true,
      help: 'create: what the principal may do; default: what it could do before',
    },
    expires: { value: 'TIME', help: 'create: when its tokens end, such as 2027-01-31T00:00:00Z' },
    limits: {
      value: 'JSON',
      help: 'create: what the principal may use, such as {"pages":100}; default: what it could use before',
    },
    older: { help: 'revoke: only the older one of two tokens' },
    'data-dir': { value: 'DIR', help: 'create, revoke: data folder whose audit trail gets lines' },
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [
    [
      "mmsb token create desk --auth-file tokens.json --scope 'read:risk.*'",
      'make a token; it is printed once',
    ],
    ['mmsb token list --auth-file tokens.json', 'who may do what'],
    ['mmsb token revoke desk --auth-file tokens.json', 'take all tokens of desk away'],
  ],
  verbs: ['create', 'list', 'revoke'],
}

export async function token([action, ...rest]: readonly string[]): Promise<void> {
  const hasId = action === 'create' || action === 'revoke'
  const id = hasId && rest[0]?.startsWith('-') === false ? rest[0] : undefined
  const flags = flagsOrHelp(
    action === undefined || action.startsWith('-')
      ? [action ?? '--help']
      : rest.slice(id === undefined ? 0 : 1),
    HELP,
  )
  if (flags === undefined) return
  const file = flags.values.get('auth-file')?.text
  if (file === undefined) throw new UsageError('--auth-file is missing')
  if (hasId && id === undefined) throw new UsageError(`token ${action}: the principal is missing`)
  switch (action) {
    case 'create':
      await audited('createToken', id as string, flags, () => create(file, id as string, flags))
      return
    case 'list':
      list(file, flags)
      return
    case 'revoke':
      await audited('revokeToken', id as string, flags, () => revoke(file, id as string, flags))
      return
    default:
      throw new UsageError(`unknown action ${JSON.stringify(action)}: use create, list or revoke`)
  }
}

/** Does it once the trail says so, and says how it ended. */
async function audited(
  action: string,
  target: string,
  { values }: ParsedFlags,
  run: () => void,
): Promise<void> {
  const dataDir = values.get('data-dir')?.text
  if (dataDir === undefined) {
    run()
    return
  }
  const auditor = openAuditor(dataDir, { fail: 'closed', withWrites: false }, pino({ level: 'silent' }))
  // Not a principal of the server: those have no slash.
  const entry = { action, target, principal: `os/${userInfo().username}` }
  await auditor.begin(entry)
  try {
    run()
    await auditor.note({ ...entry, outcome: 'done' })
  } catch (error) {
    await auditor.note({ ...entry, outcome: 'refused', code: codeOf(error) })
    throw error
  } finally {
    await auditor.close()
  }
}

const codeOf = (error: unknown): string => (error instanceof MmsbError ? error.code : 'INTERNAL')

function create(file: string, id: string, { values, switches }: ParsedFlags): void {
  const scopes =
    values
      .get('scope')
      ?.text.split(',')
      .map((scope) => scope.trim()) ?? []
  const expires = values.get('expires')?.text
  const limits = limitsOf(values.get('limits'))
  const made = addToken(file, {
    ...{ id, scopes },
    ...(expires === undefined ? {} : { expires }),
    ...(limits === undefined ? {} : { limits }),
  })
  if (switches.has('json')) {
    printJson({ id, ...made })
    return
  }
  report(`the token of ${id}; it is shown only now`)
  print(made.token)
}

/** @throws UsageError */
function limitsOf(given: Given | undefined): PrincipalLimits | undefined {
  if (given === undefined) return undefined
  let limits: unknown
  try {
    limits = JSON.parse(given.text)
  } catch {
    throw new UsageError(`${given.from}: is not JSON such as {"pages":100}`)
  }
  const fault = limitsFault(limits)
  if (fault !== undefined) throw new UsageError(`${given.from}: ${fault}`)
  return limits as PrincipalLimits
}

function list(file: string, { switches }: ParsedFlags): void {
  const entries = readEntries(file)
  if (switches.has('json')) {
    printJson(entries.map(({ sha256 = [], ...entry }) => ({ ...entry, tokens: sha256.length })))
    return
  }
  for (const { id, sha256 = [], scopes, expires = 'never' } of entries)
    print(`${id}  tokens ${sha256.length}  expires ${expires}  ${scopes.join(' ')}`)
}

function revoke(file: string, id: string, { switches }: ParsedFlags): void {
  const which = switches.has('older') ? 'older' : 'all'
  revokeToken(file, id, which)
  if (switches.has('json')) printJson({ id, revoked: which })
}
