/**
 * Slabs: buffers that many small pieces lie in side by side, because making an ArrayBuffer costs several
 * times what filling a small piece does.
 *
 * A piece begins at the slab's `used`; whoever takes one moves `used` behind it, by a multiple of 8. A slab
 * that is used once is left to the garbage collector when it is full. A slab that is used again counts its
 * holders: it starts over when the last of them has released it.
 *
 * Invariants: `used` only grows while somebody holds the slab; no two pieces of a slab overlap.
 */

export interface Slab {
  readonly bytes: Uint8Array<ArrayBuffer>
  /** The same bytes. */
  readonly words: Uint32Array<ArrayBuffer>
  used: number
  /** How many still need what is in it. */
  holders: number
}

export class SlabAllocator {
  readonly #slabBytes: number
  readonly #sparesMax: number
  readonly #spares: Slab[] = []
  #current: Slab

  /** `sparesMax`: how many released slabs are kept to be used again; 0: each slab is used once. */
  constructor(slabBytes: number, sparesMax = 0) {
    this.#slabBytes = slabBytes
    this.#sparesMax = sparesMax
    this.#current = this.#make()
  }

  #make(): Slab {
    const bytes = new Uint8Array(this.#slabBytes)
    // Nobody releases a slab that is used once: the garbage collector is its holder.
    const holders = this.#sparesMax === 0 ? 1 : 0
    return { bytes, words: new Uint32Array(bytes.buffer), used: 0, holders }
  }

  /**
   * A slab with room for `sizeBytes` from its `used` on. `sizeBytes` is a multiple of 8 and at most the
   * slab's size.
   */
  withRoom(sizeBytes: number): Slab {
    const current = this.#current
    return current.used + sizeBytes <= this.#slabBytes ? current : this.#next()
  }

  #next(): Slab {
    if (this.#current.holders > 0) this.#current = this.#spares.pop() ?? this.#make()
    this.#current.used = 0
    return this.#current
  }

  /** One holder less; the slab may be used again after the last. */
  release(slab: Slab): void {
    slab.holders--
    if (slab.holders > 0 || slab === this.#current || this.#spares.length >= this.#sparesMax) return
    this.#spares.push(slab)
  }
}
