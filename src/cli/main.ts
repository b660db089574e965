/**
 * The command line: finds the command, and turns an error into one line and an exit code: 1 when the command
 * failed, 2 when it was called wrongly.
 */
import { VERSION } from '../engine/version.js'
import { COMMANDS, type Command } from './command-table.js'
import { UsageError } from './flags.js'
import { allowClosedPipe, report } from './output.js'

const help = (): string => `mmsb ${VERSION}: a durable, deterministic state bus

usage: mmsb COMMAND [OPTIONS]

${Object.entries(COMMANDS)
  .map(([name, { summary }]) => `  ${name.padEnd(14)}${summary}`)
  .join('\n')}

  mmsb COMMAND --help    print the options of a command
  mmsb --version         print the version

exit codes: 0 success; 1 the command failed, or the checked data are damaged; 2 wrong usage
`

const commandOf = (name: string | undefined): Command | undefined =>
  name !== undefined && Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined

export async function run(args: readonly string[]): Promise<void> {
  try {
    await dispatch(args)
  } catch (error) {
    const message = messageOf(error)
    report(message.replaceAll('\n', ' '))
    if (error instanceof UsageError) {
      const command = commandOf(args[0]) === undefined ? '' : ` ${args[0]}`
      report(`see \`mmsb${command} --help\``)
    }
    process.exitCode = error instanceof UsageError ? 2 : 1
  }
}

/** Errors of the operating system about a file, in words. */
const FILE_ERRORS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EEXIST: 'already exists',
  EISDIR: 'is a folder',
  ENOENT: 'no such file or folder',
  ENOSPC: 'the disk is full',
  ENOTDIR: 'a part of the path is not a folder',
  EROFS: 'the file system is read-only',
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code = '', path } = error as NodeJS.ErrnoException
  const isKnown = path !== undefined && Object.hasOwn(FILE_ERRORS, code)
  return isKnown ? `${path}: ${FILE_ERRORS[code]}` : error.message
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
  if (name === undefined) throw new UsageError('a command is missing')
  const command = commandOf(name)
  if (command === undefined) throw new UsageError(`unknown command ${JSON.stringify(name)}`)
  const { run: runCommand } = await command.load()
  allowClosedPipe()
  await runCommand(rest.map((arg) => (arg === '-h' ? '--help' : arg)))
}
