/** Windows by themselves: which are allowed, what they weigh, and which elements each shows. */
import t from 'tap'
import type { PageChange, PageShape } from '../../../src/engine/types.js'
import { patternSet } from '../../../src/state/pattern.js'
import { PagePart } from '../../../src/stream/messages.js'
import { SharedView } from '../../../src/stream/views/shared-view.js'
import {
  checkViewports,
  cutPart,
  cutRanges,
  rangesOf,
  type Slices,
  viewportsOf,
} from '../../../src/stream/views/viewport.js'

type Bounds = Slices[string]

const ALL = patternSet(['p*'])
const windowOf = (bounds: Bounds, shape: readonly number[]) =>
  viewportsOf({ p: bounds }, ALL).windowOf('p', shape)!
/** The elements that a window shows, each by its place. */
const elementsOf = (bounds: Bounds, shape: readonly number[]): number[] =>
  expand(rangesOf(windowOf(bounds, shape)))

function expand(ranges: Uint32Array): number[] {
  const elements: number[] = []
  for (let i = 0; i < ranges.length; i += 2)
    for (let k = 0; k < ranges[i + 1]!; k++) elements.push(ranges[i]! + k)
  return elements
}

/** The same, element by element. */
function modelOf(bounds: Bounds, shape: readonly number[]): number[] {
  const all = Array.from({ length: shape.reduce((product, size) => product * size, 1) }, (_, i) => i)
  return all.filter((element) => {
    let rest = element
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const at = rest % shape[axis]!
      rest = Math.floor(rest / shape[axis]!)
      if (at < bounds[axis]![0] || at >= bounds[axis]![1]) return false
    }
    return true
  })
}

t.test('a window shows the elements inside its bounds, in the longest runs', async (t) => {
  const cases: [Bounds, number[], number][] = [
    [[[2, 5]], [8], 1],
    [[[0, 8]], [8], 1],
    [[], [], 1],
    [
      [
        [1, 3],
        [0, 4],
      ],
      [4, 4],
      1,
    ],
    [
      [
        [1, 3],
        [1, 4],
      ],
      [4, 4],
      2,
    ],
    [
      [
        [1, 3],
        [0, 3],
      ],
      [4, 4],
      2,
    ],
    [
      [
        [0, 2],
        [1, 3],
        [0, 5],
      ],
      [3, 4, 5],
      2,
    ],
    [
      [
        [1, 3],
        [1, 3],
        [2, 4],
      ],
      [3, 4, 5],
      4,
    ],
    [
      [
        [0, 3],
        [0, 4],
        [0, 5],
      ],
      [3, 4, 5],
      1,
    ],
    [
      [
        [1, 2],
        [0, 2],
        [0, 3],
        [1, 2],
      ],
      [2, 2, 3, 2],
      6,
    ],
    [
      [
        [0, 2],
        [1, 2],
        [0, 3],
        [0, 2],
      ],
      [2, 2, 3, 2],
      2,
    ],
  ]
  for (const [bounds, shape, runs] of cases) {
    const window = windowOf(bounds, shape)
    t.same(elementsOf(bounds, shape), modelOf(bounds, shape), JSON.stringify(bounds))
    t.equal(window.starts.length, runs)
    t.equal(window.elements, modelOf(bounds, shape).length)
    t.same(
      window.shape,
      bounds.map(([start, stop]) => stop - start),
    )
  }
})

t.test('the part of a change that a window shows, in its own places', async (t) => {
  const [bounds, shape]: [Bounds, number[]] = [
    [
      [1, 3],
      [2, 5],
    ],
    [4, 6],
  ]
  const window = windowOf(bounds, shape)
  const shown = modelOf(bounds, shape)
  for (let from = 0; from < 24; from++) {
    for (let count = 1; from + count <= 24; count++) {
      const { inside, read } = cutRanges(window, Uint32Array.of(from, count))
      const wanted = shown.filter((element) => element >= from && element < from + count)
      const isEmpty = (ranges: Uint32Array): boolean => ranges.some((count, i) => i % 2 === 1 && count === 0)
      if (isEmpty(inside) || isEmpty(read)) t.fail(`${from}, ${count}: an empty range`)
      if (expand(read).join() !== wanted.join()) t.fail(`${from}, ${count}: read ${read}`)
      if (
        expand(inside)
          .map((place) => shown[place])
          .join() !== wanted.join()
      )
        t.fail(`${from}, ${count}: ${inside}`)
    }
  }
  const { inside, read } = cutRanges(window, Uint32Array.of(0, 9, 10, 6, 20, 1))
  t.same([...inside], [0, 1, 2, 3], 'neighbours in the window are one range')
  t.same([...read], [8, 1, 10, 1, 14, 2])
  t.same([...cutRanges(window, Uint32Array.of(8, 3, 14, 3)).inside], [0, 6])
})

t.test('which windows are allowed', async (t) => {
  const refused = (slices: unknown, message: RegExp) =>
    t.throws(() => viewportsOf(slices as Slices, ALL), { code: 'INVALID_REQUEST', message })
  refused({ q: [[0, 1]] }, /^slice: "q" is not one of the pages subscribed to/)
  for (const bounds of [
    3,
    'x',
    [3],
    [[1]],
    [[1, 2, 3]],
    [[0, 1.5]],
    [[-1, 2]],
    [['0', 1]],
    Array(9).fill([0, 1]),
  ])
    refused({ p: bounds }, /^slice: "p": must be a list of \[start, stop\]/)
  refused(
    {
      p: [
        [0, 1],
        [2, 2],
      ],
    },
    /2 to 2 is empty/,
  )
  refused({ p: [[3, 2]] }, /3 to 2 is empty/)
  refused({ ['p'.repeat(5_000)]: [[2, 2]] }, /^.{0,600}$/)
  t.doesNotThrow(() => viewportsOf({ p: Array(8).fill([0, 1]) }, ALL))
  for (const [bounds, shape] of [
    [[[0, 5]], [4]],
    [[[0, 1]], [4, 4]],
    [
      [
        [0, 1],
        [0, 1],
      ],
      [4],
    ],
    [
      [
        [0, 1],
        [3, 5],
      ],
      [4, 4],
    ],
  ] as [Bounds, number[]][])
    t.throws(() => windowOf(bounds, shape), { code: 'SHAPE_MISMATCH', message: /does not fit page "p"/ })
  t.doesNotThrow(() =>
    windowOf(
      [
        [0, 1],
        [3, 4],
      ],
      [4, 4],
    ),
  )
})

t.test('what shows the same has one key; what windows weigh', async (t) => {
  const of = (slices: Slices | undefined) => viewportsOf(slices, ALL)
  const none = of(undefined)
  t.same([none.key, none.weight, none.has('p'), none.windowOf('p', [1])], ['', 0, false, undefined])
  const keys = [
    { p: [[0, 1]] },
    { p: [[0, 2]] },
    { p1: [[0, 1]] },
    {
      p: [
        [0, 1],
        [0, 1],
      ],
    },
  ].map((slices) => of(slices as never).key)
  t.equal(new Set(keys).size, 4)
  t.equal(of({ p1: [[0, 1]], p2: [[1, 2]] }).key, of({ p2: [[1, 2]], p1: [[0, 1]] }).key)
  t.equal(of({ p1: [[0, 1]], p2: [[1, 2]] }).weight, 2)
  const weight = (...bounds: [number, number][]) => of({ p: bounds }).weight
  t.equal(weight([0, 10_000]), 1, 'one row')
  t.equal(weight([5, 5 + 64], [0, 9]), 1)
  t.equal(weight([5, 5 + 65], [0, 9]), 2)
  t.equal(weight([1, 9], [2, 10], [0, 1]), 1)
  t.equal(weight([1, 9], [2, 11], [0, 1]), 2)
  t.equal(weight([0, 1e9], [0, 1e9], [0, 1]), 1_024, 'as many as may be')
})

t.test('a window is made once for a shape', async (t) => {
  const viewports = viewportsOf({ p: [[0, 2]] }, ALL)
  const window = viewports.windowOf('p', [4])
  t.equal(viewports.windowOf('p', [4]), window)
  t.not(viewports.windowOf('p', [5]), window)
  t.equal(viewports.windowOf('q', [4]), undefined)
  t.same([viewports.has('p'), viewports.has('q'), viewports.has('toString')], [true, false, false])
})

function part(given: Partial<PageChange> = {}): PagePart {
  const change = {
    pageId: 1,
    page: 'p',
    kind: 'source',
    dtype: 'u8',
    shape: [4, 4],
    ranges: Uint32Array.of(0, 16),
    ...given,
  } as PageChange
  return new PagePart(change, (_id, ranges) => Uint8Array.from(expand(ranges)))
}

t.test('a part as the window shows it, with the values of the page', async (t) => {
  const viewports = viewportsOf(
    {
      p: [
        [1, 3],
        [1, 3],
      ],
    },
    ALL,
  )
  const cut = cutPart(part(), viewports)!
  t.match(cut.change, { shape: [2, 2], kind: 'source', page: 'p' })
  t.same([...cut.change.ranges], [0, 4])
  t.same([...cut.values()], [5, 6, 9, 10])
  t.same(cut.uncut.shape, [4, 4])
  t.equal(cutPart(part({ ranges: Uint32Array.of(0, 5, 12, 4) }), viewports), undefined)
  for (const whole of [part({ kind: 'deleted', ranges: Uint32Array.of() }), part({ page: 'p2' })])
    t.equal(cutPart(whole, viewports), whole)
  t.throws(() => cutPart(part({ shape: [16] }), viewports), { code: 'SHAPE_MISMATCH' })
})

t.test('windows are checked against the pages that there are', async (t) => {
  const slices = { p1: [[0, 5]], p2: [[0, 5]] } as unknown as Slices
  const viewports = viewportsOf(slices, ALL)
  const shapes: Record<string, number[]> = { p1: [5] }
  const shapeOf = (page: string) =>
    shapes[page] === undefined ? undefined : ({ shape: shapes[page] } as unknown as PageShape)
  t.doesNotThrow(() => checkViewports(slices, viewports, shapeOf))
  shapes.p2 = [4]
  t.throws(() => checkViewports(slices, viewports, shapeOf), { code: 'SHAPE_MISMATCH' })
  t.doesNotThrow(() => checkViewports(undefined, viewports, shapeOf))
})

t.test('a view makes a message of what its windows show, and keeps one snapshot', async (t) => {
  const viewports = viewportsOf(
    {
      p: [
        [1, 3],
        [1, 3],
      ],
    },
    ALL,
  )
  const view = new SharedView('k', { patterns: ALL, viewports, mode: 'ranges' })
  t.equal(view.messageOf(3, [part({ ranges: Uint32Array.of(0, 5) })]), undefined)
  const message = view.messageOf(3, [part({ ranges: Uint32Array.of(0, 5) }), part(), part({ page: 'p2' })])
  t.match(message, { first: 3, epoch: 3, mode: 'ranges' })
  t.same(
    message!.parts.map(({ change }) => change.page),
    ['p', 'p2'],
  )
  t.same([view.snapshotOf(3), view.snapshotBytes], [undefined, 0])
  const snapshot = { epoch: 3, valueBytes: 9 } as never
  view.keepSnapshot(snapshot)
  t.same([view.snapshotOf(3), view.snapshotOf(2), view.snapshotBytes], [snapshot, undefined, 9])
  view.forgetSnapshot()
  t.same([view.snapshotOf(3), view.snapshotBytes], [undefined, 0])
})
