/**
 * `mmsb config`: checks a configuration file of `mmsb serve`, prints its schema, and shows what counts and
 * where it comes from. It starts no server and opens none of the files that the settings name.
 *
 * Null because JSON has it where nothing is set.
 */
import { inspectConfig } from '../config/config-file.js'
import { schemaOf } from '../config/schema.js'
import {
  type CommandHelp,
  type FlagTable,
  flagsOrHelp,
  HELP_FLAG,
  JSON_FLAG,
  lineOrHelp,
  operandOf,
  type ParsedFlags,
  UsageError,
} from '../flags.js'
import { print, printJson } from '../output.js'
import { HELP as SERVE_HELP, serveOptions, withConfig } from './serve.js'

export const HELP: CommandHelp = {
  usage: `mmsb config check FILE [--json]
       mmsb config show [--json] [OPTIONS of mmsb serve]
       mmsb config schema`,
  flags: { json: JSON_FLAG, help: HELP_FLAG },
  examples: [
    ['mmsb config check mmsb.json', 'name every mistake in the file'],
    ['mmsb config show --config mmsb.json', 'print what would count, and where it comes from'],
    ['mmsb config schema > mmsb.schema.json', 'write the schema, for an editor'],
  ],
  verbs: ['check', 'show', 'schema'],
  operands: 'files',
}

export async function config([verb, ...rest]: readonly string[]): Promise<void> {
  if (verb === 'check') check(rest)
  else if (verb === 'show') await show(rest)
  else if (verb === 'schema') schema(rest)
  else if (verb === undefined || verb.startsWith('-')) {
    if (flagsOrHelp(verb === undefined ? [] : [verb], HELP) !== undefined)
      throw new UsageError('say what to do: check, show or schema')
  } else throw new UsageError(`unknown action ${JSON.stringify(verb)}: use check, show or schema`)
}

function check(args: readonly string[]): void {
  const line = lineOrHelp(args, HELP)
  if (line === undefined) return
  const file = operandOf(line, 'FILE')
  const mistakes = mistakesOf(file)
  if (mistakes.length > 0) process.exitCode = 1
  if (line.switches.has('json')) {
    printJson({ ok: mistakes.length === 0, file, mistakes })
    return
  }
  for (const mistake of mistakes) print(`problem: ${mistake}`)
  if (mistakes.length === 0) print(`ok: ${file}`)
}

/** Everything that is wrong with a file. */
function mistakesOf(file: string): readonly string[] {
  try {
    const { mistakes, values, switches } = inspectConfig(file, SERVE_HELP.flags)
    return [...mistakes, ...wrongValues({ values, switches })]
  } catch (error) {
    if (error instanceof UsageError) return [error.message]
    throw error
  }
}

/**
 * What a start would refuse. A start ends at the first mistake; here each key that an error names is left
 * out, until there is no error or it is one of several keys together.
 */
function wrongValues({ values, switches }: ParsedFlags): string[] {
  const left = new Map(values)
  const mistakes: string[] = []
  for (;;) {
    try {
      serveOptions({ values: left, switches })
      return mistakes
    } catch (error) {
      if (!(error instanceof UsageError)) throw error
      const { message } = error
      mistakes.push(message)
      const named = [...left].find(
        ([key, { from }]) => message.startsWith(`${from}: `) || message.startsWith(`--${key}: `),
      )
      if (named === undefined) return mistakes
      left.delete(named[0])
    }
  }
}

function schema(args: readonly string[]): void {
  if (flagsOrHelp(args, HELP) === undefined) return
  process.stdout.write(`${JSON.stringify(schemaOf(SERVE_HELP.flags), undefined, 2)}\n`)
}

type Source = 'flag' | 'environment' | 'file' | 'default'

async function show(args: readonly string[]): Promise<void> {
  const table: FlagTable = { ...SERVE_HELP.flags, json: JSON_FLAG }
  const given = flagsOrHelp(args, { ...HELP, flags: table })
  if (given === undefined) return
  const flags = await withConfig(given, SERVE_HELP.flags)
  // What a start would refuse is not shown as if it counted.
  serveOptions(flags)
  const settings = Object.keys(SERVE_HELP.flags)
    .filter((name) => name !== 'help')
    .map((name) => settingOf(name, given, flags))
  for (const setting of settings) {
    if (given.switches.has('json')) printJson(setting)
    else print(`${setting.key} = ${setting.value ?? '(none)'}  [${setting.from}]`)
  }
}

interface Setting {
  readonly key: string
  readonly value: string | null
  readonly source: Source
  readonly from: string
}

function settingOf(key: string, given: ParsedFlags, flags: ParsedFlags): Setting {
  const { env, value: placeholder, standard } = SERVE_HELP.flags[key]!
  const held = flags.values.get(key)
  if (held !== undefined) {
    const { text, from } = held
    // A URL may hold a password.
    const value = text.replace(/\/\/[^/@]*@/, '//***@')
    const source = !given.values.has(key) ? 'file' : from === env ? 'environment' : 'flag'
    return { key, value, source, from }
  }
  if (flags.switches.has(key)) {
    const isFlag = given.switches.has(key)
    const file = flags.values.get('config')?.text
    return {
      key,
      value: 'true',
      source: isFlag ? 'flag' : 'file',
      from: isFlag ? `--${key}` : `"${key}" in ${file}`,
    }
  }
  const value = placeholder === undefined ? 'false' : (standard ?? null)
  return { key, value, source: 'default', from: 'default' }
}
