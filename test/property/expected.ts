/**
 * What derived pages must hold, for property tests: each page from its inputs, by the plain reference. What
 * pages held in the epoch before and functions that users define are written out first, so that a definition
 * is one of the catalogue over plain pages; the same definitions let a bus compute everything from scratch.
 */
import type { Derivation, UncheckedDerivation } from '../../src/state/types.js'
import type { PageSketch } from '../lib/draw.js'
import { isExact, isNear, type ReferencePage, referenceEval, sameElement } from '../reference/evaluate.js'
import { recordOf } from '../reference/records.js'

export interface FunctionSketch {
  readonly name: string
  readonly params: readonly string[]
  readonly expr: string
}

/** A page that holds what another held in the epoch before. */
export const pastName = (page: string): string => `was.${page}`

/** The definition without `prev`, over pages and their pasts. */
export function withoutPrev(derive: UncheckedDerivation): Derivation {
  const expr = typeof derive.expr === 'string' ? derive.expr : ''
  const plain = expr.replace(/prev\((\w+)\)/g, 'prev_$1')
  const inputs: Record<string, string> = {}
  for (const [role, input] of Object.entries(derive.inputs)) {
    const isPast = typeof input !== 'string'
    const page = isPast ? pastName(input.prev) : input
    const usesPast = new RegExp(`\\bprev_${role}\\b`).test(plain)
    if (!usesPast || new RegExp(`\\b${role}\\b`).test(plain)) inputs[role] = page
    if (usesPast) inputs[`prev_${role}`] = pastName(page)
  }
  return { ...derive, inputs, ...(expr === '' ? {} : { expr: plain }) } as Derivation
}

/** The arguments of the call whose opening parenthesis is at `open`, and where it ends. */
function argumentsAt(text: string, open: number): { args: string[]; end: number } {
  const args: string[] = []
  let [depth, from] = [0, open + 1]
  for (let at = open; ; at++) {
    const letter = text[at]
    if (letter === '(') depth++
    if (letter === ')') depth--
    if ((letter === ',' && depth === 1) || depth === 0) {
      args.push(text.slice(from, at))
      from = at + 1
    }
    if (depth === 0) return { args, end: at + 1 }
  }
}

/** The text with the calls of users' functions written out. */
export function inlined(text: string, functions: readonly FunctionSketch[]): string {
  for (const { name, params, expr } of functions) {
    const call = new RegExp(`\\b${name}\\(`).exec(text)
    if (call === null) continue
    const open = call.index + name.length
    const { args, end } = argumentsAt(text, open)
    const body = expr.replace(/\b[a-z]\w*\b/g, (word) =>
      params.includes(word) ? `(${args[params.indexOf(word)]})` : word,
    )
    return inlined(`${text.slice(0, call.index)}(${body})${text.slice(end)}`, functions)
  }
  return text
}

/** Elements that the reference looks at, roughly. */
function workOf(
  derive: UncheckedDerivation,
  inputs: Readonly<Record<string, ReferencePage>>,
  out: number,
): number {
  const sizes = Object.values(inputs).map(({ values }) => values.length)
  const perElement = recordOf(derive.op).work?.(inputs) ?? 1
  return out * perElement + sizes.reduce((sum, size) => sum + size, 0)
}

const WORK_MAX = 20_000
/** The stated error of the functions, and that of JavaScript's: units in the last place of the result. */
const NEAR = { f32: [1 * 2 ** -23, 2e-45], f64: [3 * 2 ** -52, 2e-323] } as const

/**
 * The first element that is not what the reference says, in words; undefined when all are. 'unchecked': too
 * much for it.
 */
export function disagreement(
  page: PageSketch,
  pageOf: (name: string) => ReferencePage,
  functions: readonly FunctionSketch[],
): string | undefined {
  const plain: UncheckedDerivation = withoutPrev(page.derive as UncheckedDerivation)
  const derive: UncheckedDerivation =
    typeof plain.expr === 'string' ? { ...plain, expr: inlined(plain.expr, functions) } : plain
  const inputs = Object.fromEntries(
    Object.entries(derive.inputs).map(([role, name]) => [role, pageOf(name as string)]),
  )
  const got = pageOf(page.name)
  if (workOf(derive, inputs, got.values.length) > WORK_MAX) return 'unchecked'
  const wanted = referenceEval(derive, inputs, page.asked)
  const [is, should] = [got, wanted].map(({ dtype, shape }) => `${dtype}[${shape}]`)
  if (is !== should) return `${is}, should be ${should}`
  const [relative, absolute] = NEAR[got.dtype === 'f32' ? 'f32' : 'f64']
  const exact = isExact(derive)
  const at = wanted.values.findIndex((value, i) => {
    const element = got.values[i] as number | bigint
    return exact ? !sameElement(element, value) : !isNear(element, value, relative, absolute)
  })
  return at < 0 ? undefined : `element ${at} is ${got.values[at]}, should be ${wanted.values[at]}`
}
