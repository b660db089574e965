/** Helpers over bytes and bitsets for the frame codec. Knows nothing of frames. */
import { align8 } from '../wire/align.js'
import { SlabAllocator } from './slab.js'

/** Whether bytes [from, to) are all 0. */
export function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false
  return true
}

/** A copy at the start of a buffer of its own. (Buffer.slice would not copy.) */
export function copyOf(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(bytes.length)
  copy.set(bytes)
  return copy
}

/** Copies up to this size lie side by side in a slab. */
const SMALL_BYTES = 4 * 1024
const slabs = new SlabAllocator(64 * 1024)

/** A copy at a multiple of 8 of its buffer, which other copies may share. */
export function alignedCopyOf(bytes: Uint8Array): Uint8Array {
  if (bytes.length > SMALL_BYTES) return copyOf(bytes)
  const sizeBytes = align8(bytes.length)
  const slab = slabs.withRoom(sizeBytes)
  const start = slab.used
  slab.bytes.set(bytes, start)
  slab.used = start + sizeBytes
  return slab.bytes.subarray(start, start + bytes.length)
}

const POPCOUNT = Uint8Array.from({ length: 256 }, (_, byte) => {
  let bits = 0
  for (let rest = byte; rest > 0; rest >>= 1) bits += rest & 1
  return bits
})

/** Number of set bits in a bitset, and of runs of them (least significant bit first). */
export function scanBits(bits: Uint8Array): { set: number; runs: number } {
  let set = 0
  let runs = 0
  let last = 0
  for (let i = 0; i < bits.length; i++) {
    const byte = bits[i]!
    set += POPCOUNT[byte]!
    // A run begins where a bit is set and the one before it is not.
    runs += POPCOUNT[byte & ~((byte << 1) | last) & 0xff]!
    last = byte >>> 7
  }
  return { set, runs }
}

/** Calls back for each run of set bits, in order: [start, end). */
export function eachRun(bits: Uint8Array, visit: (start: number, end: number) => void): void {
  let start = -1
  for (let i = 0; i < bits.length; i++) {
    const byte = bits[i]!
    if (byte === (start < 0 ? 0 : 0xff)) continue
    for (let bit = 0; bit < 8; bit++) {
      const set = (byte >>> bit) & 1
      if (set === 1 && start < 0) start = i * 8 + bit
      if (set === 0 && start >= 0) {
        visit(start, i * 8 + bit)
        start = -1
      }
    }
  }
  if (start >= 0) visit(start, bits.length * 8)
}
