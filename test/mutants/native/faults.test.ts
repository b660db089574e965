/** The list of native faults fits the sources: what a fault replaces stands in its file, once. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../../lib/place.js'
import { FAULTS, FAULTS_OF_ONE_BUILD, type Fault } from './faults.js'
import { nameOf, plant } from './plant.js'

t.test('a fault is planted beside what is right', async (t) => {
  const fault: Fault = { file: 'a.cuh', right: 'if ({{a < b}}) c();', wrong: 'a <= b' }
  t.equal(plant('x(); if (a < b) c();', fault, 7), 'x(); if ((mmsbFault == 7 ? (a <= b) : (a < b))) c();')
  const statement: Fault = { file: 'a.cuh', right: 'c();', wrong: '', isStatement: true }
  t.equal(plant('a(); c();', statement, 8), 'a(); if (mmsbFault == 8) {  } else { c(); }')
  t.throws(() => plant('a(); c(); c();', statement, 8), /must contain once/)
  t.throws(() => plant('a();', statement, 8), /must contain once/)
})

t.test('every fault fits the sources, and no two are the same', async (t) => {
  const all = [...FAULTS, ...FAULTS_OF_ONE_BUILD]
  for (const [i, fault] of all.entries()) {
    const source = readFileSync(join(ROOT, 'src/kernels/native', fault.file), 'utf8')
    t.doesNotThrow(() => plant(source, fault, i + 1), fault.file)
  }
  t.equal(new Set(all.map(nameOf)).size, all.length)
})
