/**
 * A process of abusers: runs those that its command line names, side by side, until it is killed. Tells its
 * parent what they got.
 */
import { Draw, randomSource } from '../lib/draw.js'
import { ABUSERS } from './abusers/all.js'
import { type Abuser, Field, type Tally } from './field.js'

/** What a process of abusers says: the tallies since it began, by abuser. */
export type Told = Readonly<Record<string, Tally>>

const TELL_MS = 250

async function loop({ name, act }: Abuser, field: Field): Promise<void> {
  for (;;) {
    try {
      await act(field)
    } catch (error) {
      // A mistake of the abuser itself must be seen: the suite allows no such answer.
      field.count(`${name} failed: ${(error as Error).message}`)
      await new Promise((resolve) => setTimeout(resolve, TELL_MS))
    }
  }
}

const [port, seed, ...names] = process.argv.slice(2)
const told: Record<string, Tally> = {}
const nextSeed = randomSource(Number(seed))
for (const abuser of ABUSERS.filter(({ name }) => names.includes(name))) {
  const tally: Tally = {}
  told[abuser.name] = tally
  for (let lane = 0; lane < abuser.lanes; lane++) {
    void loop(abuser, new Field(Number(port), new Draw(Math.floor(nextSeed() * 2 ** 32)), tally))
  }
}
setInterval(() => process.send?.(told), TELL_MS)
process.once('disconnect', () => process.exit())
