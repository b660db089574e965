/**
 * Reads the configuration file of `mmsb serve`.
 *
 * Invariants: the file is checked by the schema that documents it; a mistake names the key and the file. What
 * a flag or an environment variable gives wins over the file. Nothing here writes anything.
 */
import fs from 'node:fs'
import { Check, type TSchema } from '../../http/typebox.js'
import { type FlagTable, type Given, type ParsedFlags, UsageError } from '../flags.js'
import { SCHEMA_KEY, schemaOf } from './schema.js'

/** What a file says, and what is wrong with it. */
export interface ConfigFile extends ParsedFlags {
  readonly mistakes: readonly string[]
}

const keyIn = (file: string, key: string): string => `${JSON.stringify(key)} in ${file}`

/** The values of a file whose keys all have the right type. @throws UsageError */
export function readConfig(file: string, table: FlagTable): ParsedFlags {
  const { mistakes, ...flags } = inspectConfig(file, table)
  if (mistakes.length > 0) throw new UsageError(mistakes.join('; '))
  return flags
}

/** Every key of a file. @throws UsageError if the file has no keys to look at */
export function inspectConfig(file: string, table: FlagTable): ConfigFile {
  const { properties } = schemaOf(table)
  const values = new Map<string, Given>()
  const switches = new Set<string>()
  const mistakes: string[] = []
  for (const [key, value] of Object.entries(parse(file))) {
    const from = keyIn(file, key)
    const schema = Object.hasOwn(properties, key) ? properties[key] : undefined
    if (schema === undefined) mistakes.push(`${from}: ${reasonOf(key, table)}`)
    else if (!Check(schema, value)) mistakes.push(`${from}: must be ${wordsFor(schema)}`)
    else if (value === true) switches.add(key)
    else if (key !== SCHEMA_KEY && value !== false) values.set(key, { text: textOf(value), from })
  }
  return { values, switches, mistakes }
}

/** Flags and environment variables, and from the file what they leave open. */
export const completedBy = (flags: ParsedFlags, file: ParsedFlags): ParsedFlags => ({
  values: new Map([...file.values, ...flags.values]),
  switches: new Set([...file.switches, ...flags.switches]),
})

function parse(file: string): object {
  let text: string
  try {
    text = fs.readFileSync(file, 'utf8')
  } catch (error) {
    throw new UsageError(`${file} cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
  let config: unknown
  try {
    config = JSON.parse(text)
  } catch (error) {
    throw new UsageError(`${file} is not JSON: ${(error as Error).message}`)
  }
  if (typeof config === 'object' && config !== null && !Array.isArray(config)) return config
  throw new UsageError(`${file} is not a JSON object`)
}

/** A value as a flag would have it. */
function textOf(value: unknown): string {
  if (Array.isArray(value)) return value.join(',')
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

const reasonOf = (key: string, table: FlagTable): string =>
  Object.hasOwn(table, key) ? 'can only be given as a flag' : 'is not a key'

interface Shape {
  readonly type?: string
  readonly enum?: readonly string[]
  readonly anyOf?: readonly Shape[]
}

const WORDS: Readonly<Record<string, string>> = {
  boolean: 'true or false',
  integer: 'a whole number',
  string: 'a text that is not empty',
  object: 'an object',
  array: 'a list of such texts',
}

/** What a schema wants, in words. */
function wordsFor(schema: TSchema): string {
  const { type = '', enum: choices, anyOf } = schema as Shape
  if (choices !== undefined) return `one of ${choices.join(', ')}`
  return anyOf === undefined ? (WORDS[type] ?? type) : anyOf.map((s) => WORDS[s.type ?? '']).join(' or ')
}
