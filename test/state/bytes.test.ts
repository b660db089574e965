/** Helpers over bytes: zeros, copies and where they lie, bits and runs of them. */
import fc from 'fast-check'
import t from 'tap'
import { alignedCopyOf, copyOf, eachRun, isZero, scanBits } from '../../src/state/bytes.js'

t.test('zero is what lies between the bounds', async (t) => {
  const bytes = Uint8Array.of(1, 0, 0, 2)
  for (const [from, to, is] of [
    [1, 3, true],
    [0, 3, false],
    [1, 4, false],
    [0, 1, false],
    [3, 3, true],
  ] as const)
    t.equal(isZero(bytes, from, to), is, `${from} to ${to}`)
})

t.test('a copy has a buffer of its own; a small aligned one shares it and no byte', async (t) => {
  const bytes = Buffer.from('abcdefghijkl')
  const copy = copyOf(bytes.subarray(1, 4))
  t.same([copy, copy.buffer.byteLength], [Uint8Array.of(98, 99, 100), 3])
  const copies = [3, 8, 9, 0, 5].map((length) => alignedCopyOf(bytes.subarray(0, length)))
  for (const [i, length] of [3, 8, 9, 0, 5].entries()) {
    t.same(copies[i], Uint8Array.from(bytes.subarray(0, length)))
    t.equal(copies[i]!.byteOffset % 8, 0)
  }
  bytes.fill(0)
  copies[1]!.fill(7)
  t.same(
    [copies[0], copies[2]],
    [Uint8Array.of(97, 98, 99), Uint8Array.from([...'abcdefghi'].map((c) => c.charCodeAt(0)))],
  )
  const sizes = [4096, 4097].map((length) => alignedCopyOf(new Uint8Array(length).fill(1)).buffer.byteLength)
  t.same(sizes, [64 * 1024, 4097], 'a large one keeps no slab')
})

/** Runs of set bits, one bit after the other. */
function runsOf(bits: Uint8Array): [number, number][] {
  const runs: [number, number][] = []
  for (let i = 0; i < bits.length * 8; i++) {
    if (((bits[i >> 3]! >> (i & 7)) & 1) === 0) continue
    const last = runs.at(-1)
    if (last !== undefined && last[1] === i) last[1]++
    else runs.push([i, i + 1])
  }
  return runs
}

t.test('bits are counted and visited run by run', async (t) => {
  const byte = fc.oneof(fc.constantFrom(0, 0xff, 0x80, 1), fc.nat(255))
  fc.assert(
    fc.property(fc.array(byte, { maxLength: 6 }), (list) => {
      const bits = Uint8Array.from(list)
      const runs = runsOf(bits)
      const seen: [number, number][] = []
      eachRun(bits, (start, end) => seen.push([start, end]))
      const set = runs.reduce((sum, [start, end]) => sum + end - start, 0)
      t.same(seen, runs)
      t.same(scanBits(bits), { set, runs: runs.length })
      return true
    }),
    { numRuns: 300 },
  )
})
