/**
 * The command line: finds the command, turns what it throws into one line and an exit code.
 * 0 done, 1 it could not be done, 2 wrong usage: the help says so too.
 */
import { VERSION } from '../engine/version.js'
import { UsageError } from './flags.js'

interface Command {
  readonly summary: string
  /** Loads the command; its file is not read before it is asked for. */
  readonly load: () => Promise<(args: readonly string[]) => Promise<void>>
}

const COMMANDS: Readonly<Record<string, Command>> = {
  serve: {
    summary: 'serve the bus over HTTP and WebSocket',
    load: async () => (await import('./commands/serve.js')).serve,
  },
  backup: {
    summary: 'copy a data folder, its server running or not',
    load: async () => (await import('./commands/backup.js')).backup,
  },
  restore: {
    summary: 'make a data folder of a backup',
    load: async () => (await import('./commands/backup.js')).restore,
  },
  export: {
    summary: 'write pages as .npy files',
    load: async () => (await import('./commands/export.js')).exportPages,
  },
  import: {
    summary: 'make pages of .npy files',
    load: async () => (await import('./commands/import.js')).importPages,
  },
  events: {
    summary: 'write change events to a file, or read them back',
    load: async () => (await import('./commands/events.js')).events,
  },
  log: {
    summary: 'check a data folder, record by record, and repair its log',
    load: async () => (await import('./commands/log.js')).log,
  },
  index: {
    summary: 'make the index of a log anew',
    load: async () => (await import('./commands/index-rebuild.js')).index,
  },
  verify: {
    summary: 'replay a data folder and compare digests',
    load: async () => (await import('./commands/verify.js')).verify,
  },
}

const help = (): string => `mmsb ${VERSION}: a durable, deterministic state bus

usage: mmsb COMMAND [OPTIONS]

${Object.entries(COMMANDS)
  .map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`)
  .join('\n')}

  mmsb COMMAND --help    what a command takes
  mmsb --version         the version

exit codes: 0 done; 1 it could not be done, or what was checked is not sound; 2 wrong usage
`

const commandOf = (name: string | undefined): Command | undefined =>
  name !== undefined && Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined

export async function run(args: readonly string[]): Promise<void> {
  try {
    await dispatch(args)
  } catch (error) {
    const message = messageOf(error)
    process.stderr.write(`mmsb: ${message.replaceAll('\n', ' ')}\n`)
    if (error instanceof UsageError) {
      const command = commandOf(args[0]) === undefined ? '' : ` ${args[0]}`
      process.stderr.write(`mmsb: \`mmsb${command} --help\` shows what there is\n`)
    }
    process.exitCode = error instanceof UsageError ? 2 : 1
  }
}

/** What the system calls a file's trouble, in words. */
const SYSTEM_TROUBLES: Readonly<Record<string, string>> = {
  EACCES: 'permission is denied',
  EEXIST: 'it is there already',
  EISDIR: 'it is a folder',
  ENOENT: 'there is no such file or folder',
  ENOSPC: 'the disk is full',
  ENOTDIR: 'what should be a folder on the way there is none',
  EROFS: 'the disk can only be read',
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code = '', path } = error as NodeJS.ErrnoException
  const isKnown = path !== undefined && Object.hasOwn(SYSTEM_TROUBLES, code)
  return isKnown ? `${path}: ${SYSTEM_TROUBLES[code]}` : error.message
}

async function dispatch([name, ...rest]: readonly string[]): Promise<void> {
  if (name === '--version' || name === '-v') {
    process.stdout.write(`${VERSION}\n`)
    return
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(help())
    return
  }
  if (name === undefined) throw new UsageError('which command?')
  const command = commandOf(name)
  if (command === undefined) throw new UsageError(`there is no command ${JSON.stringify(name)}`)
  const runCommand = await command.load()
  await runCommand(rest.map((arg) => (arg === '-h' ? '--help' : arg)))
}
