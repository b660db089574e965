/** What is in the npm package: everything that a machine needs, and nothing else. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { satisfies } from 'semver'
import t from 'tap'
import { folder } from '../lib/folder.js'
import { emptyFolder, output, pack, run } from './installed.js'

const MAX_PACKED_BYTES = 12_000_000
const GLIBC_FLOOR = '2.17.0'
const PREBUILT = 'prebuilt/linux-x64/libmmsb.so'
/** A machine without a native library, for the install step. */
const MAC = "Object.defineProperty(process, 'platform', { value: 'darwin' })"

const dir = folder(t)
const packed = await pack(dir)

/** The package, unpacked without npm. */
const unpacked = emptyFolder(dir, 'un packed')
await output('tar', ['-xzf', packed.file, '--strip-components=1'], unpacked)

t.test('the package holds what it needs', async (t) => {
  t.ok(packed.bytes < MAX_PACKED_BYTES, `${packed.bytes} bytes`)
  for (const path of ['LICENSE', 'THIRD-PARTY.md', 'bin/install.js', PREBUILT, 'dist/index.d.ts'])
    t.ok(packed.paths.includes(path), path)
  t.notOk(packed.paths.some((path) => /^(test|build|node_modules)\//.test(path)))
  t.match(readFileSync(join(unpacked, 'dist/http/typebox.js'), 'utf8').slice(0, 200), /MIT License/)
  // Nothing is left of a source that is no longer there.
  for (const path of packed.paths.filter((path) => /^dist\/.*(?<!\.d)\.(js|ts)$/.test(path)))
    t.ok(packed.paths.includes(path.replace(/^dist\/(.*)\.js$/, 'src/$1.ts')), path)
})

t.test('source maps find their sources', async (t) => {
  const maps = packed.paths.filter((path) => path.endsWith('.map'))
  t.ok(maps.length > 100)
  for (const path of maps) {
    const { sources } = JSON.parse(readFileSync(join(unpacked, path), 'utf8')) as { sources: string[] }
    for (const source of sources)
      t.ok(existsSync(join(unpacked, dirname(path), source)), `${path}: ${source}`)
  }
})

t.test('the native library needs no new glibc, and nothing of g++', async (t) => {
  const symbols = await output('objdump', ['-T', join(unpacked, PREBUILT)], dir)
  const versions = [...symbols.matchAll(/GLIBC_(\d+\.\d+)/g)].map(([, version]) => `${version}.0`)
  t.ok(versions.length > 20)
  t.same(
    versions.filter((version) => !satisfies(version, `<=${GLIBC_FLOOR}`)),
    [],
  )
  const headers = await output('objdump', ['-p', join(unpacked, PREBUILT)], dir)
  const needed = [...headers.matchAll(/NEEDED +(\S+)/g)].map(([, name]) => name)
  t.same(needed.sort(), ['ld-linux-x86-64.so.2', 'libc.so.6', 'libm.so.6', 'libpthread.so.0'])
})

t.test('make native finds its sources in the package', async (t) => {
  for (const file of ['native.mk', 'Makefile']) {
    const plan = await output('make', ['-n', '-f', file, 'native', 'NVCC='], unpacked)
    t.match(plan, /-c kernels\.cu -o build\/native\/cpu_v3\.o/)
  }
  for (const part of [1, 2]) {
    const args = ['-M', '-x', 'c++', `-DMMSB_PART=${part}`, '-Isrc/kernels/native', 'kernels.cu']
    t.match(await output('g++', args, unpacked), 'src/kernels/native/core/op.cuh')
  }
})

t.test('the install step never fails', async (t) => {
  const step = join(unpacked, 'bin/install.js')
  const mac = await run(process.execPath, ['--import', `data:text/javascript,${MAC}`, step], dir)
  t.equal(mac.status, 0)
  t.match(
    mac.stderr,
    /^mmsb: MMSB runs on Linux on x86-64, and this is darwin on \w+\. mmsb\/client works here/,
  )
  const fits = await run(process.execPath, [step], dir)
  t.match(fits, { status: 0, stderr: '' }, 'nothing is to be done here')
  const noTools = { PATH: emptyFolder(dir, 'no tools'), npm_config_build_from_source: 'true' }
  const bare = await run(process.execPath, [step], dir, noTools)
  t.equal(bare.status, 0)
  t.match(bare.stderr, /^mmsb: Building the native library needs make and g\+\+; install it first\./)
})
