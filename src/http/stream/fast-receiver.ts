/**
 * Small binary messages, told apart before the WebSocket library sees them: at hundreds of thousands a second the objects and
 * events that it makes for each cost more than all that the messages are about.
 *
 * Invariants: what is taken are whole masked binary messages (RFC 6455, 5.2) of one part; every other byte goes to the library,
 * in its order, and what was taken before it has been told of by then. From a frame on that ends the connection, or that the
 * protocol does not allow, everything goes there. Bytes are kept only until their header, or their message, is whole.
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

/** Where messages are unmasked, one behind the other; used within one call. */
const ROOM_BYTES = 2 * STREAM_SMALL_MESSAGE_MAX_BYTES
const ROOM = newRoom()

function newRoom(): FrameMemory {
  const bytes = new Uint8Array(ROOM_BYTES)
  return { bytes, words: new Uint32Array(bytes.buffer) }
}

/** Takes one message, or several of one frame each put together. The bytes are good until it returns. */
export type TakeFrames = (frames: Uint8Array) => void

/** Calls back once, with the error that ends the connection if there is one. */
type Done = (error?: Error | null) => void
/** Gives bytes to the library. */
type Feed = (bytes: Buffer, done: Done) => void

/** From now on small binary messages that come to a WebSocket of the library go to `take`. */
export function divert(socket: object, take: TakeFrames): void {
  const { _receiver: receiver } = socket as { readonly _receiver?: Writable }
  if (typeof receiver?._write !== 'function') return
  const library = receiver._write.bind(receiver)
  const divider = new Divider(take)
  receiver._write = (chunk: Buffer, encoding, done) => {
    divider.read(chunk, (bytes, then) => library(bytes, encoding, then), done)
  }
}

/** Tells the messages of one socket apart. */
export class Divider {
  readonly #take: TakeFrames
  /** The beginning of a frame, and how many of its bytes are needed to go on. */
  #parts: Buffer[] = []
  #partBytes = 0
  #needBytes = 0
  /** Bytes of the current frame that still go to the library. */
  #passing = 0
  /** The library has the first part of a message, not its last. */
  #isFragmented = false
  /** Everything goes to the library. */
  #isBlind = false
  /** Bytes in ROOM that have not been told of. */
  #gathered = 0

  constructor(take: TakeFrames) {
    this.#take = take
  }

  read(chunk: Buffer, feed: Feed, done: Done): void {
    const bytes = this.#joined(chunk)
    if (bytes === undefined) done()
    else this.#readFrom(bytes, 0, feed, done)
  }

  /** What came, with what was kept before it; nothing while that does not suffice. */
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
    // The library calls back before it returns, as a rule: a loop, or a chunk of many messages would nest as many calls.
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

  /** Takes messages from `at` on; returns where bytes begin that go to the library, or the end: the rest was kept. */
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

  /** Where the bytes end that go to the library, from `at` on. */
  #passAll(bytes: Buffer, at: number): number {
    if (this.#isBlind) return bytes.length
    const end = Math.min(bytes.length, at + this.#passing)
    this.#passing -= end - at
    return end
  }

  /**
   * Takes the message at `at` and returns its end, or decides that its frame passes and returns `at`. Nothing without
   * #needBytes from `at` on.
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
    this.#gather(bytes, at + head, length)
    return at + head + length
  }

  #gather(bytes: Buffer, at: number, length: number): void {
    if (this.#gathered + length > ROOM_BYTES) this.#flush()
    const start = this.#gathered
    unmask(bytes, at, length, start)
    if (frameLengthAt(ROOM, start, start + length) === length) {
      this.#gathered += length
      return
    }
    // More than a frame, or none: what is wrong with it must not meet the messages around it.
    this.#flush()
    this.#take(ROOM.bytes.subarray(start, start + length))
  }

  #flush(): void {
    const end = this.#gathered
    this.#gathered = 0
    if (end > 0) this.#take(ROOM.bytes.subarray(0, end))
  }
}

const lengthAt = (bytes: Buffer, at: number, short: number): number =>
  short === LENGTH_16 ? bytes.readUInt16BE(at) : bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4)

/** Unmasks the `length` bytes at `at`, behind their mask, into ROOM, at `to`, a multiple of 4. */
function unmask(bytes: Buffer, at: number, length: number, to: number): void {
  const mask = bytes[at - 4]! | (bytes[at - 3]! << 8) | (bytes[at - 2]! << 16) | (bytes[at - 1]! << 24)
  const words = ROOM.words
  const wholeEnd = at + (length & ~3)
  let word = to >>> 2
  for (let i = at; i < wholeEnd; i += 4) {
    words[word++] = (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24)) ^ mask
  }
  for (let i = 0; i < (length & 3); i++) ROOM.bytes[word * 4 + i] = bytes[wholeEnd + i]! ^ (mask >>> (8 * i))
}
