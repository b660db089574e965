/**
 * What writers know about pages: id, dtype and size, which frames need, read from the server once per name.
 */
import type { FramePage } from '../codec/frame.js'
import { elementsOf } from '../codec/values.js'
import type { Page } from '../types.js'

export class KnownPages {
  readonly #read: (name: string) => Promise<Page>
  readonly #known = new Map<string, FramePage>()
  readonly #pending = new Map<string, Promise<FramePage>>()

  constructor(read: (name: string) => Promise<Page>) {
    this.#read = read
  }

  get(name: string): FramePage | Promise<FramePage> {
    return this.#known.get(name) ?? this.#pending.get(name) ?? this.#ask(name)
  }

  /** The page may have been replaced by another of the same name. */
  forget(name: string): void {
    this.#known.delete(name)
  }

  /** The ids of pages may mean other pages now. */
  forgetAll(): void {
    this.#known.clear()
    this.#pending.clear()
  }

  #ask(name: string): Promise<FramePage> {
    const pending: Promise<FramePage> = this.#read(name)
      .then(({ id, dtype, shape }) => {
        const page = { id, dtype, elements: elementsOf(shape) }
        if (this.#pending.get(name) === pending) this.#known.set(name, page)
        return page
      })
      .finally(() => {
        if (this.#pending.get(name) === pending) this.#pending.delete(name)
      })
    this.#pending.set(name, pending)
    return pending
  }
}
