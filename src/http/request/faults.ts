/**
 * Finds out why a value does not fit its schema, in a time that does not grow with what is right about it.
 *
 * The library lists the faults of a whole value by interpreting the schema for every element, which takes
 * minutes for millions of numbers. Here a long list is first cut down to its first wrong items, found by
 * compiled checks, and an object to a few of its unknown fields; the library explains what is left.
 *
 * Invariants: a value that does not fit has at least one fault. Paths are those of the given value.
 */
import { Compile, type TSchema } from '../typebox.js'

export interface SchemaFault {
  readonly keyword: string
  readonly schemaPath: string
  readonly instancePath: string
  readonly message: string
  readonly params: unknown
}

/** The parts of a JSON schema that lead to items and fields. */
interface PartSchema extends TSchema {
  readonly properties?: Readonly<Record<string, PartSchema>>
  readonly patternProperties?: Readonly<Record<string, PartSchema>>
  readonly items?: PartSchema | readonly PartSchema[]
  readonly maxItems?: number
  readonly additionalProperties?: unknown
  readonly anyOf?: readonly PartSchema[]
}

/** Shorter lists are kept whole. */
const KEPT_ITEMS_MAX = 8
/** Of the fields that no schema names, so many are kept: the library lists at most 8 faults. */
const KEPT_FIELDS_MAX = 4

/** Returns a function that explains why a value does not fit. */
export function faultFinder(schema: TSchema): (value: unknown) => readonly SchemaFault[] {
  const compiled = Compile(schema)
  const faultsOf = (value: unknown, cut: Cut): readonly SchemaFault[] => {
    const small = cut.value(value, branches([schema as PartSchema]), '')
    const faults = compiled.Errors(small) as readonly SchemaFault[]
    return [...faults, ...cut.tooLong].map((fault) => ({
      ...fault,
      instancePath: cut.originalPath(fault.instancePath),
    }))
  }
  return (value) => {
    const first = faultsOf(value, new Cut(true))
    return first.length > 0 ? first : faultsOf(value, new Cut(false))
  }
}

/** The schemas that a value may have to fit: unions are taken apart. */
function branches(schemas: readonly PartSchema[]): readonly PartSchema[] {
  return schemas.flatMap((schema) => [schema, ...branches(schema.anyOf ?? [])])
}

/** Makes the small copy of a value, and remembers which items it kept. */
class Cut {
  /** Lists that are longer than allowed. The small copy does not show it. */
  readonly tooLong: SchemaFault[] = []
  /** Path of a list in the copy -> the original indices of its items. */
  readonly #kept = new Map<string, readonly number[]>()
  readonly #oneIsEnough: boolean
  #hasFault = false

  /** `oneIsEnough`: beside an unknown field no list is searched. */
  constructor(oneIsEnough: boolean) {
    this.#oneIsEnough = oneIsEnough
  }

  value(value: unknown, schemas: readonly PartSchema[], path: string): unknown {
    if (typeof value !== 'object' || value === null) return value
    return Array.isArray(value) ? this.#list(value, schemas, path) : this.#object(value, schemas, path)
  }

  #list(list: readonly unknown[], schemas: readonly PartSchema[], path: string): readonly unknown[] {
    const items = schemas.flatMap((schema) => schema.items ?? [])
    const parts = branches(items)
    if (list.length <= KEPT_ITEMS_MAX) return list.map((item, i) => this.value(item, parts, `${path}/${i}`))
    this.#noteLength(list.length, schemas, path)
    const firstWrong = (this.#hasFault ? [] : items).map((item) => {
      const check = checkOf(item)
      return list.findIndex((value) => !check.Check(value))
    })
    const wrong = [...new Set(firstWrong)].filter((i) => i >= 0).sort((a, b) => a - b)
    const kept = wrong.length > 0 ? wrong : [0]
    this.#kept.set(path, kept)
    return kept.map((original, i) => this.value(list[original], parts, `${path}/${i}`))
  }

  #noteLength(length: number, schemas: readonly PartSchema[], instancePath: string): void {
    const limits = schemas.flatMap(({ maxItems }) => maxItems ?? [])
    if (limits.length === 0) return
    const limit = Math.max(...limits)
    if (length <= limit) return
    const message = `must not have more than ${limit} items`
    this.tooLong.push({ keyword: 'maxItems', schemaPath: '#', instancePath, message, params: { limit } })
  }

  #object(value: object, schemas: readonly PartSchema[], path: string): object {
    const kept: [string, unknown][] = []
    const named: [string, unknown, readonly PartSchema[]][] = []
    for (const [name, field] of Object.entries(value)) {
      const parts = schemas.flatMap(({ properties = {} }) =>
        Object.hasOwn(properties, name) ? (properties[name] as PartSchema) : [],
      )
      // A field that is right is left out, but for those the schema names: they may be required.
      if (parts.length > 0) {
        named.push([name, field, branches(parts)])
        continue
      }
      const matching = schemas.flatMap(({ patternProperties = {} }) => Object.values(patternProperties))
      if (
        kept.length >= KEPT_FIELDS_MAX ||
        (matching.length > 0 && matching.every((part) => fits(part, field)))
      )
        continue
      kept.push([name, this.value(field, branches(matching), `${path}/${name}`)])
    }
    const isClosed = schemas.every(({ properties, additionalProperties }) =>
      properties === undefined ? true : additionalProperties === false,
    )
    if (kept.length > 0 && isClosed && this.#oneIsEnough) this.#hasFault = true
    for (const [name, field, parts] of named) kept.push([name, this.value(field, parts, `${path}/${name}`)])
    return Object.fromEntries(kept)
  }

  /** The path in the given value of a path in the copy. */
  originalPath(path: string): string {
    if (this.#kept.size === 0) return path
    let at = ''
    let original = ''
    for (const part of path.split('/').slice(1)) {
      const index = this.#kept.get(at)?.[Number(part)]
      at += `/${part}`
      original += `/${index ?? part}`
    }
    return original
  }
}

const checks = new WeakMap<TSchema, ReturnType<typeof Compile>>()

function checkOf(schema: TSchema): ReturnType<typeof Compile> {
  let check = checks.get(schema)
  if (check === undefined) {
    check = Compile(schema)
    checks.set(schema, check)
  }
  return check
}

const fits = (schema: TSchema, value: unknown): boolean => checkOf(schema).Check(value)
