/**
 * The scripts of `mmsb completion` in the shells that they are for. A shell that is not installed is skipped,
 * and says so; in CI it fails.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { COMMANDS } from '../../../../src/cli/command-table.js'
import { plainEnvironment } from '../../../lib/environment.js'
import { ROOT } from '../../../lib/place.js'
import { run } from '../../process.js'

/** Calls the function as bash does, which makes three words of --flag=value. */
const BASH = `source "$1"; cd "$2"
compopt() { :; }
read -ra COMP_WORDS <<< "\${3/=/ = }"
[[ $3 == *[\\ =] ]] && COMP_WORDS+=('')
COMP_CWORD=$(( \${#COMP_WORDS[@]} - 1 ))
_mmsb && printf '%s\\n' "\${COMPREPLY[@]}"`

const SHELLS: Readonly<Record<string, (script: string, dir: string, line: string) => string[]>> = {
  bash: (script, dir, line) => ['--norc', '-c', BASH, 'bash', script, dir, line],
  zsh: (script, dir, line) => ['-f', `${ROOT}test/cli/commands/completion/complete.zsh`, script, dir, line],
  fish: (script, dir, line) => [
    '-N',
    '-c',
    'source $argv[1]; cd $argv[2]; complete -C $argv[3]',
    script,
    dir,
    line,
  ],
}

function placeOf(t: Test): string {
  const dir = t.testdir({ 'a.npy': '', 'b.npy': '' })
  mkdirSync(join(dir, 'folder'))
  mkdirSync(join(dir, 'my data'))
  return dir
}

/** The words that a shell offers; in zsh and bash a value after = comes with or without its flag. */
function offered(t: Test, shell: string, script: string, dir: string, line: string): Set<string> {
  const args = SHELLS[shell]!(script, dir, line)
  const { stdout, stderr, error } = spawnSync(shell, args, {
    encoding: 'utf8',
    env: { ...plainEnvironment(), HOME: dir, TERM: 'xterm' },
    timeout: 30_000,
  })
  t.same([error, stderr], [undefined, ''], line)
  // fish adds a description, and a slash to folders.
  const words = stdout.split('\n').map((word) =>
    word
      .split('\t')[0]!
      .replace(/^--\w+=/, '')
      .replace(/\/$/, ''),
  )
  return new Set(words.filter((word) => word !== ''))
}

/** A line, what is offered, and what is not. */
const CASES: readonly (readonly [line: string, yes: readonly string[], no: readonly string[]])[] = [
  ['mmsb s', ['serve', 'set', 'stats', 'status'], ['log', 's']],
  ['mmsb serve --ba', ['--backend'], ['--data-dir']],
  ['mmsb serve --backend ', ['auto', 'cpu', 'cuda'], ['always', 'a.npy']],
  ['mmsb serve --backend=c', ['cpu', 'cuda'], ['auto']],
  ['mmsb serve --port ', [], ['auto', 'a.npy', 'serve']],
  ['mmsb log ', ['check'], ['serve', 'a.npy']],
  ['mmsb log check --q', ['--quick'], ['--fix']],
  ['mmsb token ', ['create', 'list', 'revoke'], ['check']],
  ['mmsb import --files a', ['a.npy'], ['b.npy', 'folder']],
  ['mmsb events export ', ['a.npy', 'folder'], ['export']],
  ['mmsb completion ', ['bash', 'zsh', 'fish'], ['a.npy']],
  ['mmsb get log ', [], ['check', 'a.npy']],
  ['mmsb watch x --data ', ['none', 'ranges', 'values'], ['auto']],
  ['mmsb backup --data-dir f', ['folder'], ['a.npy', 'my data']],
  ['mmsb doctor f', ['folder'], ['my data']],
]

// Many processes, one after the other.
t.setTimeout(120_000)

for (const shell of Object.keys(SHELLS)) {
  const isHere = spawnSync(shell, ['-c', 'true']).error === undefined
  const skip = !isHere && process.env.CI === undefined && `skipped: ${shell} is not installed`
  t.test(`${shell} completes commands, flags and values`, { skip }, async (t) => {
    const dir = placeOf(t)
    const { code, stdout, stderr } = await run(['completion', shell])
    t.same([code, stderr], [0, ''])
    const script = join(t.testdirName, `_mmsb.${shell}`)
    writeFileSync(script, stdout)
    t.equal(spawnSync(shell, ['-n', script]).status, 0, 'its syntax')
    const names = offered(t, shell, script, dir, 'mmsb ')
    for (const name of Object.keys(COMMANDS)) t.ok(names.has(name), name)
    for (const [line, yes, no] of CASES) {
      const words = offered(t, shell, script, dir, line)
      t.same([yes.filter((word) => !words.has(word)), no.filter((word) => words.has(word))], [[], []], line)
    }
    for (const [name, { load }] of Object.entries(COMMANDS)) {
      // One process for each command is enough, and for all of them too much.
      if (!['serve', 'set', 'doctor'].includes(name)) continue
      const flags = offered(t, shell, script, dir, `mmsb ${name} --`)
      t.same(
        Object.keys((await load()).help.flags).filter((flag) => !flags.has(`--${flag}`)),
        [],
        `the flags of ${name}`,
      )
    }
    if (shell === 'bash')
      t.ok(offered(t, shell, script, dir, 'mmsb doctor m').has('my data'), 'a name with a space')
  })
}

t.test('wrong usage', async (t) => {
  for (const [args, message] of [
    [[], /the shell \(bash, zsh or fish\) is missing/],
    [['tcsh'], /"tcsh" is not one of bash, zsh, fish/],
    [['bash', 'zsh'], /unexpected argument "zsh"/],
  ] as const) {
    const { code, stdout, stderr } = await run(['completion', ...args])
    t.same([code, stdout], [2, ''], args.join(' '))
    t.match(stderr, message)
  }
})
