/**
 * A queue that serves callers in turn: one with many waiting requests delays another's request by no more
 * than one.
 *
 * Invariant: the requests of one caller keep their order.
 */

/** Whoever asks: an object, such as a connection, or a name. */
export type Caller = object | string

export class CallerQueue<T> {
  /** Waiting requests of each caller, which has at least one. The caller to be served next comes first. */
  readonly #waiting = new Map<Caller, T[]>()
  #size = 0

  get size(): number {
    return this.#size
  }

  sizeOf(caller: Caller): number {
    return this.#waiting.get(caller)?.length ?? 0
  }

  push(caller: Caller, request: T): void {
    this.#size++
    const own = this.#waiting.get(caller)
    if (own === undefined) this.#waiting.set(caller, [request])
    else own.push(request)
  }

  /** The next request of the next caller. */
  shift(): T | undefined {
    const [first] = this.#waiting
    if (first === undefined) return undefined
    const [caller, own] = first
    const request = own.shift()
    this.#size--
    this.#waiting.delete(caller)
    if (own.length > 0) this.#waiting.set(caller, own)
    return request
  }

  /** Returns false when the request does not wait. */
  remove(caller: Caller, request: T): boolean {
    const own = this.#waiting.get(caller)
    if (own === undefined) return false
    const at = own.indexOf(request)
    if (at < 0) return false
    own.splice(at, 1)
    this.#size--
    if (own.length === 0) this.#waiting.delete(caller)
    return true
  }

  /** Removes and returns everything. */
  clear(): T[] {
    const all = [...this.#waiting.values()].flat()
    this.#waiting.clear()
    this.#size = 0
    return all
  }
}
