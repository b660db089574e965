/** The state of a bus as the store writes it into a checkpoint, and what the engine keeps beside it. */
import { MmsbError } from '../../errors.js'
import { nextSlice } from '../../slices.js'
import type { CheckpointPage, CheckpointSource } from '../../store/types.js'
import type { AnsweredKey } from '../idempotency/keys.js'
import type { EngineState } from '../pages/engine-state.js'
import { type FunctionRecord, FunctionTable } from '../pages/function-table.js'
import { definitionFrame } from '../pages/page-records.js'
import type { PageRecord } from '../pages/registry.js'

/** The engine's own part of a checkpoint, as JSON. */
export interface CheckpointExtra {
  readonly format: 1
  /** Idempotency keys and their answers, oldest first. */
  readonly answers: readonly AnsweredKey[]
  readonly worldAge?: number
  readonly functions?: readonly FunctionRecord[]
}

export interface CheckpointState {
  readonly state: Pick<EngineState, 'registry' | 'graph'>
  readonly epoch: number
  readonly timestampMs: number
  readonly digest: Uint8Array
  readonly nextPageId: number
  readonly answers: readonly AnsweredKey[]
}

/**
 * Describes the current state, which must be at rest. Whatever can change later is copied; bytes come from
 * `read`.
 */
export function checkpointSource(
  checkpoint: CheckpointState,
  hooks: Omit<CheckpointSource, 'header' | 'pages' | 'lateExtra'>,
): CheckpointSource {
  const { epoch, timestampMs, digest, nextPageId } = checkpoint
  const { registry, graph } = checkpoint.state
  const { functions } = registry
  const { answers } = checkpoint
  const pasts = graph.pasts.map((id): CheckpointPage => {
    const page = registry.byId(graph.node(id)?.pastOf as number) as PageRecord
    return { id, version: epoch, createdEpoch: page.createdEpoch, bytes: page.bytes, meta: NO_BYTES }
  })
  return {
    ...hooks,
    header: { epoch, timestampMs, digest, nextPageId, extra: '' },
    pages: [...Array.from(registry.all(), (page) => new PageNow(page)), ...pasts].sort(byId),
    lateExtra: () => extraOf(answers, functions),
  }
}

/** CheckpointExtra as JSON. There may be many answers, so the event loop runs between slices of them. */
async function extraOf(answers: CheckpointExtra['answers'], functions: FunctionTable): Promise<string> {
  const slices: string[] = []
  for (let at = 0; at < answers.length; at += ANSWERS_SLICE) {
    slices.push(JSON.stringify(answers.slice(at, at + ANSWERS_SLICE)).slice(1, -1))
    await nextSlice()
  }
  const { worldAge } = functions
  const rest = worldAge === 0 ? '' : `,"worldAge":${worldAge},"functions":${JSON.stringify(functions.all())}`
  return `{"format":1,"answers":[${slices.join()}]${rest}}`
}

const ANSWERS_SLICE = 1_000

/** A page as it is now. Changing a function may redefine it while the checkpoint is written. */
class PageNow implements CheckpointPage {
  readonly id: number
  readonly version: number
  readonly createdEpoch: number
  readonly bytes: number
  readonly #page: PageRecord
  readonly #derived: PageRecord['derived']

  constructor(page: PageRecord) {
    this.id = page.id
    this.version = page.version
    this.createdEpoch = page.createdEpoch
    this.bytes = page.bytes
    this.#page = page
    this.#derived = page.derived
  }

  get meta(): Uint8Array {
    return definitionFrame({ ...this.#page, derived: this.#derived })
  }
}

const byId = (a: CheckpointPage, b: CheckpointPage): number => a.id - b.id

const NO_BYTES = new Uint8Array(0)

/** The functions of a checkpoint. */
export function tableOfCheckpoint({ worldAge = 0, functions = [] }: CheckpointExtra): FunctionTable {
  return new FunctionTable(worldAge, new Map(functions.map((record) => [record.name, record])))
}

/**
 * Parses the engine's part of a checkpoint. Throws INTERNAL for a format of a newer version, and for a text
 * that no version writes.
 */
export function parseCheckpointExtra(text: string): CheckpointExtra {
  let extra: unknown
  try {
    extra = JSON.parse(text)
  } catch (error) {
    throw new MmsbError('INTERNAL', `The checkpoint is damaged: ${(error as Error).message}.`)
  }
  const { format, answers, worldAge = 0, functions = [] } = (extra ?? {}) as Partial<CheckpointExtra>
  if (format !== 1) throw new MmsbError('INTERNAL', `The checkpoint has an unknown format: ${format}.`)
  if (isListOf(answers, isAnswer) && Number.isInteger(worldAge) && isListOf(functions, isObject))
    return extra as CheckpointExtra
  throw new MmsbError(
    'INTERNAL',
    'The checkpoint is damaged: its answers or functions are not as they are written.',
  )
}

const isListOf = (list: unknown, isItem: (item: unknown) => boolean): boolean =>
  Array.isArray(list) && list.every(isItem)
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null
const isAnswer = (entry: unknown): boolean =>
  Array.isArray(entry) && typeof entry[0] === 'string' && isObject(entry[1]) && isObject(entry[1].pages)
