/**
 * Receives small binary messages before the WebSocket library sees them. At hundreds of thousands of messages
 * a second, the objects and events the library makes for each of them cost more than the work the messages
 * ask for.
 *
 * Invariants: it takes only whole, masked, unfragmented binary messages (RFC 6455, 5.2). Every other byte
 * goes to the library, in order, after the messages before it have been handed on. From a frame on that
 * closes the connection or breaks the protocol, everything goes to the library. Bytes are kept only until
 * their header or their message is complete.
 *
 * The library has no public way to do this, so attachFastReceiver() replaces a method of its private member
 * `_receiver`. The version of the library is pinned for that reason, and a test sends frames over a real
 * socket to see that they are taken.
 *
 * Null because callbacks of Node have it.
 */
import type { Writable } from 'node:stream'
import { STREAM_SMALL_MESSAGE_MAX_BYTES } from '../../limits.js'
import { type FrameMemory, frameLengthAt } from '../../state/frame/plain.js'

const FIN = 0x80
const RESERVED_BITS = 0x70
const OPCODE_BITS = 0x0f
const OPCODE_BINARY = 2
const OPCODE_CLOSE = 8
const MASKED = 0x80
const LENGTH_BITS = 0x7f
const LENGTH_16 = 126
const LENGTH_64 = 127
const MASK_BYTES = 4

/** Messages are unmasked into this memory, one behind the other. It is free again after each call. */
const SCRATCH_BYTES = 2 * STREAM_SMALL_MESSAGE_MAX_BYTES
const SCRATCH = newScratch()

function newScratch(): FrameMemory {
  const bytes = new Uint8Array(SCRATCH_BYTES)
  return { bytes, words: new Uint32Array(bytes.buffer) }
}

/**
 * Takes one message, or several messages of one frame each put together. The bytes are valid until it
 * returns.
 */
export type TakeFrames = (frames: Uint8Array) => void

/** Called once, with the error that ends the connection if there is one. */
type Done = (error?: Error | null) => void
/** Gives bytes to the library. */
type Feed = (bytes: Buffer, done: Done) => void

/**
 * From now on the small binary messages of a WebSocket go to `take` instead of the library. Returns
 * undefined, and changes nothing, if the library does not have the private member this needs.
 */
export function attachFastReceiver(webSocket: object, take: TakeFrames): FastReceiver | undefined {
  const { _receiver: receiver } = webSocket as { readonly _receiver?: Writable }
  if (typeof receiver?._write !== 'function') return undefined
  const library = receiver._write.bind(receiver)
  const fast = new FastReceiver(take)
  receiver._write = (chunk: Buffer, encoding, done) => {
    fast.read(chunk, (bytes, then) => library(bytes, encoding, then), done)
  }
  return fast
}

/** Separates the small binary messages of one socket from everything else it receives. */
export class FastReceiver {
  /** How many messages it has taken. */
  messages = 0
  readonly #take: TakeFrames
  /** The beginning of a frame that is not complete, and how many of its bytes are needed to go on. */
  #parts: Buffer[] = []
  #partBytes = 0
  #needBytes = 0
  /** Bytes of the current frame that still go to the library. */
  #passing = 0
  /** The library has the first part of a message but not its last. */
  #isFragmented = false
  /** Everything goes to the library. */
  #isBlind = false
  /** Bytes in SCRATCH that have not been handed on. */
  #gathered = 0

  constructor(take: TakeFrames) {
    this.#take = take
  }

  read(chunk: Buffer, feed: Feed, done: Done): void {
    const bytes = this.#joined(chunk)
    if (bytes === undefined) done()
    else this.#readFrom(bytes, 0, feed, done)
  }

  /** The bytes kept so far with the new ones behind them; undefined while they are too few to go on. */
  #joined(chunk: Buffer): Buffer | undefined {
    if (this.#partBytes === 0) return chunk
    this.#parts.push(chunk)
    this.#partBytes += chunk.length
    if (this.#partBytes < this.#needBytes) return undefined
    const joined = Buffer.concat(this.#parts, this.#partBytes)
    this.#parts = []
    this.#partBytes = 0
    return joined
  }

  #readFrom(bytes: Buffer, from: number, feed: Feed, done: Done): void {
    // The library usually calls back before it returns. Hence a loop: recursion would nest as deep as a chunk
    // has messages.
    for (let at = from; ; ) {
      const start = this.#takeAll(bytes, at)
      if (start === bytes.length) break
      const end = this.#passAll(bytes, start)
      let answer: { readonly error: Error | null | undefined } | undefined
      let isLate = false
      feed(bytes.subarray(start, end), (error) => {
        if (!isLate) answer = { error }
        else if (error) done(error)
        else this.#readFrom(bytes, end, feed, done)
      })
      isLate = true
      if (answer === undefined) return
      if (answer.error) {
        done(answer.error)
        return
      }
      at = end
    }
    done()
  }

  /**
   * Takes messages from `at` on. Returns where bytes for the library begin; the end if there are none or the
   * rest was kept.
   */
  #takeAll(bytes: Buffer, at: number): number {
    while (at < bytes.length && this.#passing === 0 && !this.#isBlind) {
      const end = this.#next(bytes, at)
      if (end === undefined) {
        this.#parts.push(bytes.subarray(at))
        this.#partBytes = bytes.length - at
        at = bytes.length
      } else at = end
    }
    this.#flush()
    return at
  }

  /** The end of the bytes for the library that begin at `at`. */
  #passAll(bytes: Buffer, at: number): number {
    if (this.#isBlind) return bytes.length
    const end = Math.min(bytes.length, at + this.#passing)
    this.#passing -= end - at
    return end
  }

  /**
   * Takes the message at `at` and returns its end, or decides that its frame goes to the library and returns
   * `at`. Returns undefined if there are fewer than #needBytes bytes from `at` on.
   */
  #next(bytes: Buffer, at: number): number | undefined {
    const left = bytes.length - at
    this.#needBytes = 2
    if (left < 2) return undefined
    const [first, second] = [bytes[at]!, bytes[at + 1]!]
    const opcode = first & OPCODE_BITS
    this.#isBlind = second < MASKED || (first & RESERVED_BITS) !== 0 || opcode === OPCODE_CLOSE
    if (this.#isBlind) return at
    const short = second & LENGTH_BITS
    const head = (short === LENGTH_16 ? 4 : short === LENGTH_64 ? 10 : 2) + MASK_BYTES
    this.#needBytes = head
    if (left < head) return undefined
    const length = short < LENGTH_16 ? short : lengthAt(bytes, at + 2, short)
    const isWhole = first === (FIN | OPCODE_BINARY) && !this.#isFragmented
    if (!isWhole || length > STREAM_SMALL_MESSAGE_MAX_BYTES) {
      if (opcode <= OPCODE_BINARY) this.#isFragmented = first < FIN
      this.#passing = head + length
      return at
    }
    this.#needBytes = head + length
    if (left < head + length) return undefined
    this.messages++
    this.#gather(bytes, at + head, length)
    return at + head + length
  }

  #gather(bytes: Buffer, at: number, length: number): void {
    if (this.#gathered + length > SCRATCH_BYTES) this.#flush()
    const start = this.#gathered
    unmask(bytes, at, length, start)
    if (frameLengthAt(SCRATCH, start, start + length) === length) {
      this.#gathered += length
      return
    }
    // Several frames or none: handed on alone, so that an error in it does not affect the messages around it.
    this.#flush()
    this.#take(SCRATCH.bytes.subarray(start, start + length))
  }

  #flush(): void {
    const end = this.#gathered
    this.#gathered = 0
    if (end > 0) this.#take(SCRATCH.bytes.subarray(0, end))
  }
}

const lengthAt = (bytes: Buffer, at: number, short: number): number =>
  short === LENGTH_16 ? bytes.readUInt16BE(at) : bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4)

/** Unmasks the `length` bytes at `at`, which follow their mask, into SCRATCH at `to`, a multiple of 4. */
function unmask(bytes: Buffer, at: number, length: number, to: number): void {
  const mask = bytes[at - 4]! | (bytes[at - 3]! << 8) | (bytes[at - 2]! << 16) | (bytes[at - 1]! << 24)
  const words = SCRATCH.words
  const wholeEnd = at + (length & ~3)
  let word = to >>> 2
  for (let i = at; i < wholeEnd; i += 4) {
    words[word++] = (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24)) ^ mask
  }
  for (let i = 0; i < (length & 3); i++)
    SCRATCH.bytes[word * 4 + i] = bytes[wholeEnd + i]! ^ (mask >>> (8 * i))
}
