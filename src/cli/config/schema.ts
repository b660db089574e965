/**
 * The JSON schema of mmsb.json, the configuration file of `mmsb serve`. It is made from the table of flags,
 * so that it cannot say anything else.
 *
 * Invariants: a key is the long name of a flag; a flag that asks for one run alone (`--cut`) is no key.
 */
import type { TSchema } from '../../http/typebox.js'
import type { Flag, FlagTable } from '../flags.js'

export interface ConfigSchema {
  readonly $schema: string
  readonly title: string
  readonly description: string
  readonly type: 'object'
  readonly additionalProperties: false
  readonly properties: Readonly<Record<string, TSchema>>
}

/** Names the schema in a file, for editors. */
export const SCHEMA_KEY = '$schema'

const TEXT = { type: 'string', minLength: 1 }
const COUNT = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER }

/** What stands in JSON for a value that the help calls so; for all others a text. */
const BY_PLACEHOLDER: Readonly<Record<string, object>> = {
  N: COUNT,
  PORT: COUNT,
  SIZE: { anyOf: [COUNT, TEXT] },
  LIMITS: { anyOf: [{ type: 'object' }, TEXT] },
}

const LIST = { anyOf: [TEXT, { type: 'array', minItems: 1, items: TEXT }] }

function typeOf({ value, isList, choices }: Flag): object {
  if (value === undefined) return { type: 'boolean' }
  if (choices !== undefined) return { type: 'string', enum: choices }
  return isList === true ? LIST : (BY_PLACEHOLDER[value] ?? TEXT)
}

export function schemaOf(flags: FlagTable): ConfigSchema {
  const properties: Record<string, TSchema> = { [SCHEMA_KEY]: TEXT as TSchema }
  for (const [name, flag] of Object.entries(flags)) {
    if (flag.isOnlyFlag === true) continue
    const otherwise = flag.standard === undefined ? '' : ` (default ${flag.standard})`
    properties[name] = { ...typeOf(flag), description: `${flag.help}${otherwise}` } as TSchema
  }
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'mmsb.json',
    description:
      'Configuration of `mmsb serve`. A flag wins over its environment variable, and that over this file.',
    type: 'object',
    additionalProperties: false,
    properties,
  }
}
