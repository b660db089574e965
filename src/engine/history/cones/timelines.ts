/**
 * The rebuilt states of one replay thread. Each holds the pages of a cone, so that a request about one page
 * replays only what this page derives from.
 *
 * Invariants: a state that is handed out holds every page that was asked for, in every epoch that was asked
 * for. A caller moves its own states, so two callers at different epochs do not move one state back and
 * forth. The states together hold no more bytes than the quota, unless one alone does, and between
 * requests a part of it. A caller that reads
 * many cones gets a state that holds several, so it cannot drive out the states of all others.
 */
import {
  MEMORY_QUOTA_DEFAULT_BYTES,
  REPLAY_KEPT_SHARE,
  REPLAY_NEAR_EPOCHS,
  REPLAY_STATES_MAX,
  REPLAY_STATES_OF_CALLER,
  REPLAY_UNDO_BYTES,
} from '../../../limits.js'
import type { HistoryReader } from '../../../store/history.js'
import { Timeline } from '../timeline.js'
import { PageLives } from './page-lives.js'

/** The pages of a request: by name, by a test of names that `key` identifies, or all. */
export type Wanted =
  | { readonly names: readonly string[] }
  | { readonly key: string; readonly matches: (name: string) => boolean }
  | 'all'

/** A request's caller, pages and epochs. */
export interface Asked {
  readonly caller: number
  readonly wanted: Wanted
  readonly from: number
  readonly to: number
  /** Pages of the epochs after `to` up to this one are held too, if they become known on the way. */
  readonly ahead?: number
}

interface Held {
  readonly timeline: Timeline
  /** Undefined: every page. */
  readonly cone: Set<number> | undefined
  /** The caller that moves it. */
  caller: number
  /** What it was last used for, and the version of the lives then. */
  key: string | undefined
  version: number
}

export interface TimelinesOptions {
  readonly reader: HistoryReader
  readonly quotaBytes?: number
  readonly cancelledBy?: Int32Array
  readonly onPause: (epoch: number) => void
}

export class Timelines {
  readonly #options: TimelinesOptions
  readonly #lives: PageLives
  /** The one used last comes last. */
  #held: Held[] = []

  constructor(options: TimelinesOptions) {
    this.#options = options
    this.#lives = new PageLives(options.reader, options.onPause)
  }

  /** A state that holds the wanted pages and is best moved to `from`. Throws EPOCH_COMPACTED. */
  get(asked: Asked): Timeline {
    const held = this.#find(asked)
    this.#held = [...this.#held.filter((other) => other !== held), held]
    return held.timeline
  }

  #find({ caller, wanted, from, to, ahead = to }: Asked): Held {
    if (wanted === 'all') return this.#choose(caller, undefined, from)
    this.#lives.cover(from, to <= this.#lives.through ? to : ahead)
    const key = 'names' in wanted ? undefined : wanted.key
    const { version } = this.#lives
    const known = this.#held.find(
      (held) => held.key === key && held.version === version && held.timeline.epoch === from,
    )
    if (key !== undefined && known !== undefined) return known
    const until = Math.max(to, ahead)
    const ids =
      'names' in wanted
        ? this.#lives.named(wanted.names, from, until)
        : this.#lives.matching(wanted.matches, from, until)
    const need = this.#lives.withInputs(ids)
    const held = this.#choose(caller, need, from)
    for (const id of need) held.cone?.add(id)
    held.key = key
    held.version = version
    return held
  }

  /** `need` undefined: every page. */
  #choose(caller: number, need: ReadonlySet<number> | undefined, epoch: number): Held {
    const able = this.#held
      .filter((held) => held.timeline.reaches(epoch) && this.#canHold(held, need))
      .map((held) => ({ held, distance: Math.abs(epoch - (held.timeline.epoch as number)) }))
      .sort((a, b) => a.distance - b.distance)
    const [nearest] = able
    if (nearest?.distance === 0) return nearest.held
    // More pages than needed make every epoch on the way dearer: only their own caller pays for them.
    const shared = able.find(({ held, distance }) => distance <= REPLAY_NEAR_EPOCHS && isNoLarger(held, need))
    if (shared !== undefined) return this.#take(shared.held, caller)
    const isKindred = ({ cone }: Held): boolean => (cone === undefined) === (need === undefined)
    const own = able.find(({ held }) => held.caller === caller && isKindred(held))
    if (own !== undefined) return own.held
    const others = this.#held.filter((held) => held.caller === caller && isKindred(held))
    const last = others.at(-1)
    if (last !== undefined && others.length >= REPLAY_STATES_OF_CALLER) {
      this.#drop(last)
      return this.#make(caller, need === undefined ? undefined : new Set([...(last.cone ?? []), ...need]))
    }
    const lent = this.#hasRoomFor(need) ? undefined : able.find(({ held }) => isNoLarger(held, need))
    if (lent !== undefined) return this.#take(lent.held, caller)
    return this.#make(caller, need === undefined ? undefined : new Set(need))
  }

  #take(held: Held, caller: number): Held {
    held.caller = caller
    return held
  }

  /** Pages that do not exist yet where the state is can be added to its cone. */
  #canHold({ cone, timeline }: Held, need: ReadonlySet<number> | undefined): boolean {
    if (cone === undefined) return true
    if (need === undefined) return false
    for (const id of need)
      if (!cone.has(id) && this.#lives.createdEpoch(id) <= (timeline.epoch as number)) return false
    return true
  }

  #make(caller: number, cone: Set<number> | undefined): Held {
    while (this.#held.length > 0 && !this.#hasRoomFor(cone)) this.#drop(this.#held[0] as Held)
    const timeline = new Timeline({
      ...this.#options,
      undoBytes: Math.min(REPLAY_UNDO_BYTES, this.#quotaBytes / REPLAY_KEPT_SHARE) / REPLAY_STATES_MAX,
      ...(cone === undefined ? {} : { cone }),
    })
    const held: Held = { timeline, cone, caller, key: undefined, version: -1 }
    this.#held.push(held)
    return held
  }

  #hasRoomFor(cone: ReadonlySet<number> | undefined): boolean {
    if (this.#held.length >= REPLAY_STATES_MAX) return false
    const whole = this.#held.filter((held) => held.cone === undefined)
    const bytes =
      cone === undefined
        ? Math.max(0, ...whole.map(({ timeline }) => timeline.pageBytes))
        : this.#lives.bytesOf(cone)
    return bytes + this.#bytes <= this.#quotaBytes
  }

  get #quotaBytes(): number {
    return this.#options.quotaBytes ?? MEMORY_QUOTA_DEFAULT_BYTES
  }

  /** What the pages of all states take. */
  get #bytes(): number {
    return this.#held.reduce((sum, { timeline }) => sum + timeline.pageBytes, 0)
  }

  /**
   * Between requests: keeps only states that take little beside the bus itself. The one used last stays,
   * because its caller may go on, unless nobody has asked for a while.
   */
  trim(isIdle: boolean): void {
    const kept = isIdle ? 0 : 1
    while (this.#held.length > kept && this.#bytes > this.#quotaBytes / REPLAY_KEPT_SHARE)
      this.#drop(this.#held[0] as Held)
  }

  #drop(held: Held): void {
    held.timeline.close()
    this.#held = this.#held.filter((other) => other !== held)
  }
}

/** Whether the state has no more pages than needed. */
const isNoLarger = ({ cone }: Held, need: ReadonlySet<number> | undefined): boolean =>
  need === undefined || (cone !== undefined && cone.size <= need.size)
