/**
 * Rooms have floors: a file imports from its own floor or below, never up, types included. FLOORS lists them
 * ground first, for src/ and for every room of it that has sub-rooms. An import is judged in the innermost
 * folder that holds both files, so a file of engine/commit that takes one of engine/pages is judged by the
 * floors of engine.
 */
import t from 'tap'
import { type Source, sourcesOf, sourcesUnder } from './source.js'

/** Folder to floors. A floor lists folders and files (without `.ts`) of that folder. */
type Floors = Readonly<Record<string, readonly (readonly string[])[]>>

const FLOORS: Floors = {
  src: [
    ['wire'],
    ['client', 'errors', 'limits', 'slices'],
    ['installed-package', 'operator-limits'],
    ['byte-budget'],
    ['state'],
    ['kernels', 'ffi'],
    ['graph', 'store'],
    ['audit', 'engine'],
    ['stream'],
    ['auth'],
    ['http', 'index'],
    ['cli'],
  ],
  'src/cli': [
    ['flags', 'output'],
    [
      'access',
      'auth-flags',
      'config',
      'cut',
      'data-folder',
      'folder-argument',
      'limit-flags',
      'npy-files',
      'remote',
      'stopping',
    ],
    ['serving'],
    ['server'],
    ['commands'],
    ['command-table'],
    ['main'],
  ],
  'src/cli/commands': [
    ['completion', 'doctor', 'remote'],
    [
      'audit',
      'backup',
      'build-native',
      'events',
      'export',
      'import',
      'index-rebuild',
      'log',
      'migrate',
      'restore',
      'serve',
      'token',
      'verify',
    ],
    ['config'],
  ],
  'src/cli/config': [['schema'], ['config-file']],
  'src/cli/serving': [['auditing', 'tracing'], ['reloading']],
  'src/audit': [['line'], ['files', 'login-failures'], ['trail', 'verify'], ['journal'], ['auditor']],
  'src/auth': [
    ['certificate-names', 'private-file', 'scopes', 'tokens'],
    ['limits'],
    ['principals'],
    ['guard', 'token-file'],
    ['authenticator', 'guarded-bus'],
    ['certificates', 'jwt', 'tickets'],
    ['combined'],
  ],
  'src/client': [
    ['errors', 'limits', 'types'],
    ['arguments'],
    ['codec'],
    ['http'],
    ['stream'],
    ['client', 'node-tls'],
    ['browser', 'node', 'index'],
  ],
  'src/engine': [
    ['call-types', 'caller-queue', 'durable-cursors', 'host', 'stage-timings', 'version'],
    ['types'],
    ['arguments', 'callbacks', 'clock-watch', 'pages'],
    ['arguments', 'callbacks', 'pages'],
    ['idempotency'],
    ['commands'],
    ['commit'],
    ['checkpoints'],
    ['history'],
    ['open-bus'],
    ['bus'],
    ['call-checks'],
  ],
  'src/engine/history': [
    ['rebuild'],
    ['recovery', 'timeline'],
    ['cones', 'cpu-failover', 'verify'],
    ['check-replay', 'replay-queries', 'verify-folder'],
    ['past-changes', 'past-diff'],
    ['offline-folder', 'replay-client'],
    ['past', 'replay-worker'],
  ],
  'src/http': [
    ['answers', 'challenge', 'client-certificates', 'health', 'typebox'],
    ['context'],
    ['metrics', 'reply'],
    ['request', 'schemas'],
    ['authentication', 'observe'],
    ['framework', 'stream'],
    ['admin', 'documents', 'routes'],
    ['app'],
    ['starting'],
  ],
  'src/kernels': [['promotion'], ['expression'], ['ops'], ['inputs'], ['op-catalogue']],
  'src/state': [
    ['json-parts', 'own-field', 'slab', 'types', 'event-file', 'npy', 'pattern', 'ranges', 'shape'],
    ['bytes', 'value'],
    ['delta'],
    ['frame'],
  ],
  'src/store': [
    ['types'],
    ['os', 'retention'],
    ['catalog', 'checkpoint', 'cursors', 'history-file', 'log'],
    ['recovery'],
    ['checkpoint-list', 'history', 'offline', 'options'],
    ['read-only'],
    ['store'],
  ],
  'src/stream': [
    ['clock', 'messages', 'reader-limits'],
    ['conflation', 'views'],
    ['types'],
    ['options'],
    ['queues', 'resume', 'turn-budget'],
    ['snapshots', 'subscription'],
    ['connection'],
    ['hub'],
    ['subscribe'],
  ],
}

/**
 * Rooms that must not know each other although their floors would allow it: [room, who must not import it].
 */
const STRANGERS: readonly (readonly [string, string])[] = [
  ['src/store', 'src/graph'],
  ['src/graph', 'src/store'],
]

/** Which child of `folder` a path lies in, as FLOORS spells it; undefined if it lies elsewhere. */
function childOf(folder: string, path: string): string | undefined {
  if (!path.startsWith(`${folder}/`)) return undefined
  return path
    .slice(folder.length + 1)
    .split('/')[0]!
    .replace(/\.ts$/, '')
}

/** Imports that go up. */
function climbing(sources: readonly Source[], floors: Floors): string[] {
  const complaints: string[] = []
  for (const { path, imports } of sources) {
    for (const { target } of imports) {
      if (target === undefined) continue
      for (const [folder, levels] of Object.entries(floors)) {
        const from = childOf(folder, path)
        const to = childOf(folder, target)
        if (from === undefined || to === undefined || from === to) continue
        const floorOf = (child: string): number => levels.findIndex((names) => names.includes(child))
        if (floorOf(to) > floorOf(from))
          complaints.push(`${path} -> ${target}: ${folder} has ${from} below ${to}`)
      }
    }
  }
  return complaints
}

/** Files without a floor, and names on floors without a file. */
function misplaced(sources: readonly Source[], floors: Floors): string[] {
  return Object.entries(floors).flatMap(([folder, levels]) => {
    const found = new Set(sources.flatMap(({ path }) => childOf(folder, path) ?? []))
    const listed = new Set(levels.flat())
    return [
      ...[...found].filter((child) => !listed.has(child)).map((child) => `${folder}/${child} is on no floor`),
      ...[...listed].filter((child) => !found.has(child)).map((child) => `${folder}/${child} is not there`),
    ]
  })
}

/** Rooms with sub-rooms but without floors. */
function unfloored(sources: readonly Source[], floors: Floors): string[] {
  const rooms = new Set(
    sources.flatMap(({ path }) => {
      const parts = path.split('/').slice(0, -1)
      return parts.slice(1).map((_, i) => parts.slice(0, i + 1).join('/'))
    }),
  )
  return [...rooms].filter((room) => floors[room] === undefined)
}

/** Imports between rooms that must not know each other. */
function estranged(sources: readonly Source[], strangers: typeof STRANGERS): string[] {
  return sources.flatMap(({ path, imports }) =>
    imports.flatMap(({ target }) =>
      strangers.some(([room, other]) => path.startsWith(`${room}/`) && target?.startsWith(`${other}/`))
        ? [`${path} -> ${target}: strangers`]
        : [],
    ),
  )
}

const EXAMPLE: Floors = { src: [['low'], ['high']], 'src/high': [['types'], ['deep'], ['top']] }

t.test('an import that goes up is found, in rooms and in rooms of rooms, types included', async (t) => {
  const good = {
    'src/low.ts': '',
    'src/high/types.ts': "import '../low.js'",
    'src/high/deep/a.ts': "import '../types.js'\nimport './b.js'",
    'src/high/deep/b.ts': '',
    'src/high/top.ts': "import './deep/a.js'",
  }
  t.same(climbing(sourcesOf(good), EXAMPLE), [])
  t.same(misplaced(sourcesOf(good), EXAMPLE), [])
  t.same(unfloored(sourcesOf(good), EXAMPLE), [])
  t.same(climbing(sourcesOf({ 'src/low.ts': "import type { A } from './high/types.js'" }), EXAMPLE), [
    'src/low.ts -> src/high/types.ts: src has low below high',
  ])
  t.same(climbing(sourcesOf({ 'src/high/deep/a.ts': "export * from '../top.js'" }), EXAMPLE), [
    'src/high/deep/a.ts -> src/high/top.ts: src/high has deep below top',
  ])
  t.same(climbing(sourcesOf({ 'src/high/types.ts': "const a = import('./deep/b.js')" }), EXAMPLE).length, 1)
})

t.test('a room without a floor, a floor without a room and strangers are found', async (t) => {
  const bad = sourcesOf({
    'src/low.ts': '',
    'src/new/a.ts': '',
    'src/high/top.ts': '',
    'src/low/deep/a.ts': '',
  })
  t.same(misplaced(bad, EXAMPLE), [
    'src/new is on no floor',
    'src/high/types is not there',
    'src/high/deep is not there',
  ])
  t.same(unfloored(bad, EXAMPLE), ['src/low'])
  const strange = sourcesOf({ 'src/graph/a.ts': "import '../store/b.js'", 'src/store/b.ts': '' })
  t.equal(estranged(strange, STRANGERS).length, 1)
})

t.test('imports never go up, and strangers stay strangers', async (t) => {
  const sources = sourcesUnder('src')
  t.ok(sources.length > 100, 'there is something to check')
  t.same(climbing(sources, FLOORS), [])
  t.same(estranged(sources, STRANGERS), [])
})

t.test('every file of src has a floor', async (t) => {
  const sources = sourcesUnder('src')
  t.same(misplaced(sources, FLOORS), [])
  t.same(unfloored(sources, FLOORS), [])
})
