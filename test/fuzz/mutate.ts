/** Damages bytes in the ways that disks, tools and people do. Everything follows from the draw. */
import type { Draw } from '../lib/draw.js'

/** A damaged copy, never equal to the original. The bytes must not be empty. */
export function mutate(draw: Draw, bytes: Uint8Array): Uint8Array {
  for (;;) {
    const mutant = once(draw, Buffer.from(bytes))
    if (Buffer.compare(mutant, bytes) !== 0) return new Uint8Array(mutant)
  }
}

function once(draw: Draw, bytes: Buffer): Buffer {
  const at = draw.int(0, bytes.length - 1)
  const length = Math.min(draw.pick([1, 4, 8, 64, 512, 4096]), bytes.length - at)
  const block = bytes.subarray(at, at + length)
  const [before, after] = [bytes.subarray(0, at), bytes.subarray(at + length)]
  switch (draw.int(0, 6)) {
    case 0:
      bytes[at] = (bytes[at] as number) ^ (1 << draw.int(0, 7))
      return bytes
    case 1:
      return before
    case 2:
      return Buffer.concat([before, after])
    case 3:
      return Buffer.concat([before, block, block, after])
    case 4:
      return Buffer.concat([before, Buffer.alloc(length, draw.int(0, 255)), block, after])
    case 5: {
      const from = draw.int(0, bytes.length - length)
      const other = Buffer.from(bytes.subarray(from, from + length))
      bytes.copy(bytes, from, at, at + length)
      other.copy(bytes, at)
      return bytes
    }
    default:
      // A field of four bytes, as lengths and counts are.
      if (bytes.length < 4) return before
      bytes.writeUInt32LE(
        draw.pick([0, 1, 7, 8, 0x7fff_ffff, 0xffff_fff8, 0xffff_ffff]),
        Math.min(at - (at % 4), bytes.length - 4),
      )
      return bytes
  }
}
