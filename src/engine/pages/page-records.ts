/**
 * Page records: made from a definition that a caller wrote or from a create command of the log, and written
 * back as one.
 *
 * Invariants: a new record belongs to no epoch yet (version 0, no native step). A definition from a caller is
 * checked here; one from the log was checked before it was logged. Nothing is changed but the record that is
 * made.
 */
import { MmsbError } from '../../errors.js'
import type { CompileOptions, InputPage } from '../../kernels/inputs.js'
import {
  compileDerivation,
  decodeDefinition,
  derivationOf,
  encodeDefinition,
  sameDerivation,
} from '../../kernels/op-catalogue.js'
import type { CreatePageFields } from '../../state/frame/layout.js'
import { FrameWriter } from '../../state/frame/writer.js'
import { checkShape, elementCount, formatShape, sameShape } from '../../state/shape.js'
import type { Derivation, DerivedDefinition, PageDefinition, SourceDefinition } from '../../state/types.js'
import { fillBits } from '../../state/value.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import { LOCATIONS, type Location, NAME_PATTERN } from '../../wire/page.js'
import type { DerivedRecord, PageRecord } from './registry.js'

const NAME = new RegExp(NAME_PATTERN)
const UNCOMMITTED = { step: undefined, version: 0, createdEpoch: 0, level: 0 }

/** A record for a new source page. Throws INVALID_REQUEST, INVALID_DELTA (fill). */
export function sourceRecord(id: number, name: string, definition: SourceDefinition): PageRecord {
  checkName(name)
  const { dtype, location = 'auto', fill = 0 } = definition
  const { sizeBytes } = dtypeInfo(dtype)
  checkLocation(location)
  const shape = checkShape(definition.shape, dtype)
  const elements = elementCount(shape)
  return {
    id,
    name,
    kind: 'source',
    dtype,
    shape,
    elements,
    bytes: elements * sizeBytes,
    location,
    fill: fillBits(dtype, fill),
    derived: undefined,
    ...UNCOMMITTED,
  }
}

/** Where the inputs of a definition are found. */
export type DerivationDeps = Required<Pick<CompileOptions, 'functions' | 'pastOf' | 'self'>> & {
  readonly inputOf: (name: string) => InputPage
}

/** A record for a new derived page. Throws what the op's signature and shape rule say. */
export function derivedRecord(
  id: number,
  name: string,
  definition: DerivedDefinition,
  { inputOf, ...deps }: DerivationDeps,
): PageRecord {
  checkName(name)
  const { derive, location = 'auto' } = definition
  checkLocation(location)
  if (definition.dtype !== undefined) dtypeInfo(definition.dtype)
  const asked =
    definition.shape === undefined ? undefined : checkShape(definition.shape, definition.dtype ?? 'bool')
  const compiled = compileDerivation(derive, inputOf, { ...deps, dtype: definition.dtype, shape: asked })
  const shape = checkShape(compiled.shape, compiled.dtype)
  const elements = elementCount(shape)
  return {
    id,
    name,
    kind: 'derived',
    dtype: compiled.dtype,
    shape,
    elements,
    bytes: elements * DTYPE_INFO[compiled.dtype].sizeBytes,
    location,
    fill: 0n,
    derived: {
      opCode: compiled.opCode,
      opVersion: compiled.opVersion,
      inputs: compiled.inputs,
      params: compiled.params,
      derive: compiled.canonical,
      definition: encodeDefinition(compiled),
      costNs: elements * compiled.costPerElementNs,
      ...(compiled.asks === undefined ? {} : { asks: compiled.asks }),
    },
    ...UNCOMMITTED,
  }
}

/**
 * Compares an existing page, whose bytes lie at `location`, with a definition for the same name. Returns the
 * first difference as text; undefined when the page is what the definition asks for.
 */
export function differenceOf(page: PageRecord, wanted: PageRecord, location: Location): string | undefined {
  if (page.kind !== wanted.kind) return `it is ${page.kind}`
  // Compared by names, not by bytes: which hidden page keeps a past is not part of a definition.
  const derives = page.derived?.derive
  if (derives !== undefined && !sameDerivation(derives, wanted.derived?.derive as Derivation))
    return `it is derived by ${JSON.stringify(derives)}`
  if (page.dtype !== wanted.dtype) return `its dtype is ${page.dtype}`
  if (!sameShape(page.shape, wanted.shape)) return `its shape is ${formatShape(page.shape)}`
  if (![page.location, location, 'auto'].includes(wanted.location)) return `its location is ${location}`
  return page.fill === wanted.fill ? undefined : 'its fill is different'
}

export function isDerivedDefinition(definition: PageDefinition): definition is DerivedDefinition {
  return 'derive' in definition
}

/** The record of a page as its create command in the log describes it. `nameOf` names its inputs. */
export function recordOfLoggedCreate(command: CreatePageFields, nameOf: (id: number) => string): PageRecord {
  const { id, name, dtype, shape, location, kind, fill } = command
  const elements = elementCount(shape)
  const bytes = elements * DTYPE_INFO[dtype].sizeBytes
  const base = { id, name, kind, dtype, shape, elements, bytes, location, fill, ...UNCOMMITTED }
  if (kind === 'source') return { ...base, derived: undefined }
  return { ...base, derived: derivedOfLogged(command.definition, elements, nameOf) }
}

/** What a logged definition says of a derived page with so many elements. */
export function derivedOfLogged(
  bytes: Uint8Array,
  elements: number,
  nameOf: (id: number) => string,
): DerivedRecord {
  const definition = decodeDefinition(bytes)
  const { opCode, opVersion, inputs, asks } = definition
  return {
    opCode,
    opVersion,
    inputs,
    params: new Uint8Array(definition.params),
    derive: derivationOf(definition, nameOf),
    definition: new Uint8Array(bytes),
    // A guess, until price.ts estimates it.
    costNs: elements,
    ...(asks === undefined ? {} : { asks }),
  }
}

/** The create command of a page as a frame of its own: how checkpoints keep definitions. */
export function definitionFrame(page: PageRecord): Uint8Array {
  const writer = new FrameWriter({})
  writer.createPage(createCommand(page))
  return writer.finish()
}

export function createCommand(page: PageRecord): Parameters<FrameWriter['createPage']>[0] {
  const { id, name, dtype, shape, location, kind, fill } = page
  return { id, name, dtype, shape, location, kind, fill, definition: page.derived?.definition ?? NO_BYTES }
}

const NO_BYTES = new Uint8Array(0)

function checkName(name: string): void {
  if (!NAME.test(name)) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `"${name.slice(0, 80)}" is not a valid name: it must match ${NAME_PATTERN}`,
    )
  }
}

function checkLocation(location: string): void {
  if (!(LOCATIONS as readonly string[]).includes(location)) {
    throw new MmsbError('INVALID_REQUEST', `location: "${location}" is not one of ${LOCATIONS.join(', ')}.`)
  }
}

function dtypeInfo(dtype: string): (typeof DTYPE_INFO)[Dtype] {
  if (!Object.hasOwn(DTYPE_INFO, dtype)) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `dtype: "${dtype}" is not one of ${Object.keys(DTYPE_INFO).join(', ')}.`,
    )
  }
  return DTYPE_INFO[dtype as Dtype]
}
