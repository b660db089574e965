/** Each promise of docs/guide/GUARANTEES.md names faults that its tests have been seen to notice. */
import t from 'tap'
import { planterOf } from './faults.js'
import { complaintsAbout, promisesOf, readNoticed, readPromises } from './promises.js'

const TABLE = `| promise | test | faults |
|---|---|---|
| one | \`test/a.test.ts\` "x", "y", \`test/b.test.ts\` | \`src/a.ts#f: a \\|\\| b -> a\`, \`core/a.cuh: x -> y\` |
| two | \`test/a.test.ts\` | |
| three | | \`src/a.ts#f: gone\` |
| four | \`test/b.test.ts\` | \`src/a.ts#f: gone\` |
`

t.test('promises, tests with titles, and faults are read from the tables', async (t) => {
  const [one] = promisesOf(TABLE)
  t.same(one, {
    promise: 'one',
    tests: [
      { path: 'test/a.test.ts', title: 'x' },
      { path: 'test/a.test.ts', title: 'y' },
      { path: 'test/b.test.ts', title: undefined },
    ],
    faults: ['src/a.ts#f: a || b -> a', 'core/a.cuh: x -> y'],
  })
})

t.test('a promise without a fault, or with one that was not noticed, is found', async (t) => {
  const noticed = {
    'src/a.ts#f: a || b -> a': ['test/a.test.ts "y"'],
    'core/a.cuh: x -> y': ['test/a.test.ts'],
  }
  t.same(
    complaintsAbout(promisesOf(TABLE), (name) => !name.includes('gone'), noticed),
    [
      '"one": its tests have not been seen to notice core/a.cuh: x -> y',
      '"two" names no fault that its test notices',
      '"three" names no test',
      '"four": the sources have no place for the fault src/a.ts#f: gone',
    ],
  )
})

t.test('the tests of every promise have noticed its faults', async (t) => {
  const promises = readPromises()
  t.ok(promises.length > 50)
  t.same(
    complaintsAbout(promises, (name) => planterOf(name) !== undefined, readNoticed()),
    [],
  )
})
