/**
 * The recovery table: what the store does at start for every combination of findings. Each combination has
 * exactly one row, each row one outcome. docs/internals/DURABILITY.md prints this table (a test compares),
 * and a test enumerates every combination.
 *
 * Invariants: only the first four columns decide. A durable record is never given up silently: proof that one
 * is lost (a bad checksum before the tail, an index or checkpoint that knows more epochs than the log) makes
 * the store refuse to start. The loss of what can be rebuilt (the index) never does. Knows nothing of files.
 */

/** The end of the log. torn: bytes of a write that was never durable follow the last sound record. */
export const TAIL_STATES = ['whole', 'torn'] as const
/** The records before the tail. bad: a durable record fails its checksum or is missing. */
export const BODY_STATES = ['sound', 'bad'] as const
/**
 * The log index compared with the log. lost: missing, unreadable, or of another bus. ahead: it knows durable
 * epochs the log lacks.
 */
export const INDEX_STATES = ['current', 'behind', 'ahead', 'lost'] as const
/**
 * The checkpoints. none: there never was one, and the log starts at epoch 1. sound: the newest is usable.
 * missing, damaged: the newest is not there or fails its checks, but the log reaches back to an older one or
 * to epoch 1. unreachable: the same, but the log begins later. ahead: the newest has an epoch that the log
 * does not reach.
 */
export const CHECKPOINT_STATES = ['none', 'sound', 'missing', 'damaged', 'unreachable', 'ahead'] as const

export type TailState = (typeof TAIL_STATES)[number]
export type BodyState = (typeof BODY_STATES)[number]
export type IndexCondition = (typeof INDEX_STATES)[number]
export type CheckpointState = (typeof CHECKPOINT_STATES)[number]

export interface Findings {
  readonly tail: TailState
  readonly body: BodyState
  readonly index: IndexCondition
  readonly checkpoint: CheckpointState
}

export interface RecoveryRow {
  readonly row: string
  readonly tail: readonly TailState[]
  readonly body: readonly BodyState[]
  readonly index: readonly IndexCondition[]
  readonly checkpoint: readonly CheckpointState[]
  readonly action: 'start' | 'refuse'
  /** What happens to the tail and the index, and where the state is loaded from. */
  readonly outcome: string
}

const ANY_TAIL = TAIL_STATES
const ANY_INDEX = INDEX_STATES
const ANY_CHECKPOINT = CHECKPOINT_STATES
const NEWEST = ['none', 'sound'] as const
const FALLBACK = ['missing', 'damaged'] as const
const CAN_START = [...NEWEST, ...FALLBACK] as const

export const RECOVERY_TABLE: readonly RecoveryRow[] = [
  {
    row: 'A',
    tail: ['whole'],
    body: ['sound'],
    index: ['current'],
    checkpoint: NEWEST,
    action: 'start',
    outcome: 'start: newest checkpoint (or empty state), then the log',
  },
  {
    row: 'B',
    tail: ['whole'],
    body: ['sound'],
    index: ['behind'],
    checkpoint: NEWEST,
    action: 'start',
    outcome: 'as A; the index is brought up from the log in the background',
  },
  {
    row: 'C',
    tail: ['whole'],
    body: ['sound'],
    index: ['lost'],
    checkpoint: NEWEST,
    action: 'start',
    outcome: 'as A; a warning; the index is rebuilt from the log in the background',
  },
  {
    row: 'D',
    tail: ['torn'],
    body: ['sound'],
    index: ['current'],
    checkpoint: NEWEST,
    action: 'start',
    outcome: 'as A; the torn bytes are cut and reported',
  },
  {
    row: 'E',
    tail: ['torn'],
    body: ['sound'],
    index: ['behind'],
    checkpoint: NEWEST,
    action: 'start',
    outcome: 'as B; the torn bytes are cut and reported',
  },
  {
    row: 'F',
    tail: ['torn'],
    body: ['sound'],
    index: ['lost'],
    checkpoint: NEWEST,
    action: 'start',
    outcome: 'as C; the torn bytes are cut and reported',
  },
  {
    row: 'G',
    tail: ['whole'],
    body: ['sound'],
    index: ['current', 'behind', 'lost'],
    checkpoint: FALLBACK,
    action: 'start',
    outcome:
      'as A, B or C by the index; a warning; from the next older checkpoint (or empty state), then the longer log',
  },
  {
    row: 'H',
    tail: ['torn'],
    body: ['sound'],
    index: ['current', 'behind', 'lost'],
    checkpoint: FALLBACK,
    action: 'start',
    outcome: 'as G; the torn bytes are cut and reported',
  },
  {
    row: 'R1',
    tail: ANY_TAIL,
    body: ['bad'],
    index: ANY_INDEX,
    checkpoint: ANY_CHECKPOINT,
    action: 'refuse',
    outcome:
      'refuse: says which record of which segment is bad and which epochs a repair would lose; nothing is changed',
  },
  {
    row: 'R2',
    tail: ANY_TAIL,
    body: ['sound'],
    index: ['ahead'],
    checkpoint: CAN_START,
    action: 'refuse',
    outcome: 'refuse: the index proves that the log has lost durable epochs; says which; nothing is changed',
  },
  {
    row: 'R3',
    tail: ANY_TAIL,
    body: ['sound'],
    index: ANY_INDEX,
    checkpoint: ['unreachable'],
    action: 'refuse',
    outcome: 'refuse: no usable checkpoint, and the log does not reach back to epoch 1; nothing is changed',
  },
  {
    row: 'R4',
    tail: ANY_TAIL,
    body: ['sound'],
    index: ANY_INDEX,
    checkpoint: ['ahead'],
    action: 'refuse',
    outcome:
      'refuse: a checkpoint proves that the log has lost durable epochs; says which; nothing is changed',
  },
]

/** The one row that applies. */
export function rowOf(findings: Findings): RecoveryRow {
  for (const row of RECOVERY_TABLE) {
    if (
      row.tail.includes(findings.tail) &&
      row.body.includes(findings.body) &&
      row.index.includes(findings.index) &&
      row.checkpoint.includes(findings.checkpoint)
    ) {
      return row
    }
  }
  throw new Error(`no row of the recovery table for ${JSON.stringify(findings)}`)
}
