/** All mutants, and a sample of them: drawn with a seed, so that the same seed draws the same ones later. */
import { createHash } from 'node:crypto'
import { filesUnder } from '../../house/source.js'
import { sourceOf } from './judge.js'
import { type Mutant, mutantsOf } from './mutations.js'

export const ROOMS = ['engine', 'store', 'stream', 'state', 'wire', 'client', 'http']

export const roomOf = ({ path }: Mutant): string => path.split('/')[1]!

export function mutantsIn(rooms: readonly string[]): Mutant[] {
  return rooms
    .flatMap((room) => filesUnder(`src/${room}`))
    .filter((path) => path.endsWith('.ts'))
    .flatMap((path) => mutantsOf(path, sourceOf(path)))
}

/**
 * `count` of all mutants, from every room as many as its share, in an order that mixes the rooms. Each
 * mutant has its lot, which follows from its name and the seed: where the sources change, the rest of the
 * sample stays.
 */
export function sampleOf(all: readonly Mutant[], count: number, seed: number): Mutant[] {
  const lotOf = ({ id }: Mutant): string => createHash('sha256').update(`${seed} ${id}`).digest('hex')
  const byRoom = new Map<string, { mutant: Mutant; lot: string }[]>()
  for (const mutant of all) {
    const room = roomOf(mutant)
    const list = byRoom.get(room) ?? []
    list.push({ mutant, lot: lotOf(mutant) })
    byRoom.set(room, list)
  }
  const drawn: { mutant: Mutant; place: number }[] = []
  let before = 0
  for (const list of byRoom.values()) {
    const wanted =
      Math.round(((before + list.length) / all.length) * count) - Math.round((before / all.length) * count)
    before += list.length
    list.sort((a, b) => (a.lot < b.lot ? -1 : 1))
    for (const [i, { mutant }] of list.slice(0, wanted).entries())
      drawn.push({ mutant, place: (i + 0.5) / wanted })
  }
  return drawn.sort((a, b) => a.place - b.place).map(({ mutant }) => mutant)
}
