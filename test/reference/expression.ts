/**
 * The expression language, read and run as plainly as can be: a tree, walked once per element, with types
 * found on the way. For tests only; shares nothing with src/kernels, so that it can disagree. Takes only
 * expressions that compile.
 */
import { DTYPE_INFO, DTYPES, type Dtype, isDtype } from '../../src/wire/dtype.js'
import { castScalar, fusedMultiplyAdd, operate, type Scalar } from './element.js'

type Tree =
  | { readonly kind: 'number'; readonly value: Scalar }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'call'; readonly name: string; readonly args: readonly Tree[] }

/** A value while it is computed: its dtype, or 'int' or 'float' while it is made of bare numbers. */
interface Typed {
  readonly type: Dtype | 'int' | 'float'
  readonly value: Scalar
  /** A choice between bare numbers: computing with it gives i64. */
  readonly choice?: boolean
}

// ---- reading ----------------------------------------------------------------------------------------------

const TOKEN =
  /\s*(0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[A-Za-z_]\w*|\*\*|\/\/|[<>=!]=|[-+*/%<>(),])/y

/** Binding strength of what stands between two operands; 'if' is handled apart. */
const STRENGTH: Readonly<Record<string, number>> = {
  or: 1,
  and: 2,
  '==': 4,
  '!=': 4,
  '<': 4,
  '<=': 4,
  '>': 4,
  '>=': 4,
  '+': 5,
  '-': 5,
  '*': 6,
  '/': 6,
  '//': 6,
  '%': 6,
  '**': 8,
}
const NOT_STRENGTH = 3
const SIGN_STRENGTH = 7

export function readTree(text: string): Tree {
  const tokens: string[] = []
  TOKEN.lastIndex = 0
  for (let at = 0; text.slice(at).trim() !== ''; at = TOKEN.lastIndex) {
    TOKEN.lastIndex = at
    const found = TOKEN.exec(text)
    if (found === null) throw new Error(`cannot read '${text.slice(at)}'`)
    tokens.push(found[1]!)
  }
  const state = { tokens, next: 0 }
  const tree = readChoice(state)
  if (state.next !== tokens.length) throw new Error(`left over: ${tokens.slice(state.next).join(' ')}`)
  return tree
}

interface Reader {
  readonly tokens: readonly string[]
  next: number
}

function readChoice(r: Reader): Tree {
  const value = readOperators(r, 0)
  if (r.tokens[r.next] !== 'if') return value
  r.next++
  const condition = readOperators(r, 0)
  r.next++ // else
  return { kind: 'call', name: 'where', args: [condition, value, readChoice(r)] }
}

function readOperators(r: Reader, least: number): Tree {
  let left = readOperand(r)
  for (;;) {
    const operator = r.tokens[r.next]!
    const strength = STRENGTH[operator] ?? -1
    if (strength <= least) return left
    r.next++
    // A power's exponent takes signs and further powers; everything else groups to the left.
    const right = operator === '**' ? readOperators(r, SIGN_STRENGTH) : readOperators(r, strength)
    left = { kind: 'call', name: operator, args: [left, right] }
  }
}

function readOperand(r: Reader): Tree {
  const token = r.tokens[r.next++]!
  if (token === 'not') return { kind: 'call', name: 'not', args: [readOperators(r, NOT_STRENGTH)] }
  if (token === '-') return { kind: 'call', name: 'neg', args: [readOperators(r, SIGN_STRENGTH)] }
  if (token === '+') return readOperators(r, SIGN_STRENGTH)
  if (token === '(') {
    const inner = readChoice(r)
    r.next++
    return inner
  }
  if (/^(\d+|0[xX].*)$/.test(token)) return { kind: 'number', value: BigInt(token) }
  if (/^[\d.]/.test(token)) return { kind: 'number', value: Number(token) }
  if (r.tokens[r.next] !== '(') return { kind: 'name', name: token }
  const args: Tree[] = []
  do {
    r.next++
    args.push(readChoice(r))
  } while (r.tokens[r.next] === ',')
  r.next++
  return { kind: 'call', name: token, args }
}

/** Names of the functions and operators in an expression. */
export function namesCalled(tree: Tree): string[] {
  return tree.kind === 'call' ? [tree.name, ...tree.args.flatMap(namesCalled)] : []
}

// ---- types ------------------------------------------------------------------------------------------------

const isBare = (type: Typed['type']): type is 'int' | 'float' => type === 'int' || type === 'float'
const isFloatType = (type: Typed['type']): boolean => type === 'float' || type === 'f32' || type === 'f64'

/** The dtype that operands share. */
export function commonDtype(types: readonly Typed['type'][]): Dtype {
  const strong = types.filter((type) => !isBare(type)) as Dtype[]
  const wide = (kind: string): Dtype | undefined =>
    DTYPES.filter((d) => DTYPE_INFO[d].kind === kind && strong.includes(d)).sort(
      (a, b) => DTYPE_INFO[b].sizeBytes - DTYPE_INFO[a].sizeBytes,
    )[0]
  const float = wide('float')
  if (float !== undefined) return float
  if (types.includes('float')) return 'f64'
  const signed = wide('signed')
  const unsigned = wide('unsigned')
  if (signed !== undefined && unsigned !== undefined) {
    const bytes = Math.max(DTYPE_INFO[signed].sizeBytes, DTYPE_INFO[unsigned].sizeBytes * 2)
    return DTYPES.find((d) => DTYPE_INFO[d].kind === 'signed' && DTYPE_INFO[d].sizeBytes === bytes)!
  }
  return signed ?? unsigned ?? (types.includes('int') ? 'i64' : strong.length > 0 ? 'bool' : 'i64')
}

function convert({ type, value }: Typed, to: Dtype): Scalar {
  if (type === 'int' && to !== 'bool' && DTYPE_INFO[to].kind !== 'float') return value
  return castScalar(value, type === 'int' ? 'i64' : type === 'float' ? 'f64' : type, to)
}

const truth = (x: Typed): bigint => (x.value !== 0 && x.value !== 0n ? 1n : 0n)

// ---- running ----------------------------------------------------------------------------------------------

const CONSTANTS: Readonly<Record<string, Typed>> = {
  inf: { type: 'float', value: Number.POSITIVE_INFINITY },
  nan: { type: 'float', value: Number.NaN },
  pi: { type: 'float', value: Math.PI },
  true: { type: 'bool', value: 1n },
  True: { type: 'bool', value: 1n },
  false: { type: 'bool', value: 0n },
  False: { type: 'bool', value: 0n },
}

const COMPARE: Readonly<Record<string, (a: Scalar, b: Scalar) => boolean>> = {
  '==': (a, b) => a === b,
  '!=': (a, b) => a !== b,
  '<': (a, b) => a < b,
  '<=': (a, b) => a <= b,
  '>': (a, b) => a > b,
  '>=': (a, b) => a >= b,
}

const OF_FLOATS = new Set(['sqrt', 'exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh'])
const ROUNDINGS = new Set(['floor', 'ceil', 'round', 'trunc'])

export type Environment = Readonly<Record<string, { readonly dtype: Dtype; readonly value: Scalar }>>

/** The value of an expression for one element, in its final dtype. */
export function evaluate(tree: Tree, names: Environment): { dtype: Dtype; value: Scalar } {
  const result = run(tree, names)
  const dtype = commonDtype([result.type])
  return { dtype, value: convert(result, dtype) }
}

function run(tree: Tree, names: Environment): Typed {
  if (tree.kind === 'number')
    return { type: typeof tree.value === 'bigint' ? 'int' : 'float', value: tree.value }
  if (tree.kind === 'name') {
    const input = names[tree.name]
    return input === undefined ? CONSTANTS[tree.name]! : { type: input.dtype, value: input.value }
  }
  const { name } = tree
  const args = tree.args.map((arg) => run(arg, names))
  const [a, b, c] = args as [Typed, Typed, Typed]
  if (name in COMPARE) return compare(name, a, b)
  if (isDtype(name)) return { type: name, value: name === 'bool' ? truth(a) : cast(a, name) }
  switch (name) {
    case 'and':
      return { type: 'bool', value: truth(a) & truth(b) }
    case 'or':
      return { type: 'bool', value: truth(a) | truth(b) }
    case 'not':
      return { type: 'bool', value: 1n - truth(a) }
    case 'where':
      return choose(truth(a) === 1n, b, c)
    case 'isnan':
      return { type: 'bool', value: Number.isNaN(a.value as number) ? 1n : 0n }
    case 'clamp':
      return simple('min', [simple('max', [a, b]), c])
    case 'min':
    case 'max':
      return args.reduce((x, y) => simple(name, [x, y]))
    case 'pow':
      return simple('**', [a, b])
    case 'fma': {
      const type = commonDtype(args.map((arg) => arg.type))
      const value = fusedMultiplyAdd(type, convert(a, type), convert(b, type), convert(c, type))
      if (!args.every((arg) => isBare(arg.type))) return { type, value }
      return { type: isFloatType(type) ? 'float' : 'int', value }
    }
    default:
      return simple(name, args)
  }
}

function cast(x: Typed, to: Dtype): Scalar {
  return convert(x, to)
}

function compare(name: string, a: Typed, b: Typed): Typed {
  const type = commonDtype([a.type, b.type])
  const bare = a.type === 'int' && b.type === 'int'
  const result = COMPARE[name]!(bare ? a.value : convert(a, type), bare ? b.value : convert(b, type))
  return { type: 'bool', value: result ? 1n : 0n }
}

function choose(first: boolean, a: Typed, b: Typed): Typed {
  const picked = first ? a : b
  if (!isBare(a.type) || !isBare(b.type)) {
    const type = commonDtype([a.type, b.type])
    return { type, value: convert(picked, type) }
  }
  const isFloat = a.type === 'float' || b.type === 'float'
  return {
    type: isFloat ? 'float' : 'int',
    value: isFloat ? Number(picked.value) : picked.value,
    choice: true,
  }
}

/** Operations whose operands take a common dtype, which the result has too. */
function simple(name: string, args: readonly Typed[]): Typed {
  const [a, b] = args as [Typed, Typed | undefined]
  const types = args.map(({ type }) => type)
  const common = commonDtype(types)
  const bare = types.every(isBare)
  if (ROUNDINGS.has(name) && !isFloatType(a.type)) return a
  if (name === 'abs' && common === 'bool') return a
  if (name === 'sign' && common === 'bool') return a
  const fraction =
    name === '/' ||
    OF_FLOATS.has(name) ||
    (name === '**' && bare && b!.type === 'int' && (b!.value as bigint) < 0n)
  const type = fraction && !isFloatType(common) ? 'f64' : common
  // Bare integers are computed exactly; i64 is wide enough for what the tests write.
  const values = args.map((arg) => convert(arg, type))
  const value = squared(name, b)
    ? operate('*', type, values[0]!, values[0]!)
    : operate(name, type, values[0]!, values[1] ?? values[0]!)
  if (!bare) return { type, value }
  if (isFloatType(type)) return { type: 'float', value }
  return args.some((arg) => arg.choice) ? { type: 'i64', value } : { type: 'int', value }
}

/** x ** 2 is x * x. */
const squared = (name: string, power: Typed | undefined): boolean =>
  name === '**' &&
  power !== undefined &&
  isBare(power.type) &&
  Number(power.value) === 2 &&
  power.choice !== true
