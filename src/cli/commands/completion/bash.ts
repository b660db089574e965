/** Completion for bash, 4.2 or later. */
import { type CompletedCommand, flagsOf, quoted, type Values, valuesOf } from './commands.js'

const GENERATORS = { files: 'compgen -f', folders: 'compgen -d' } as const

/** Fills COMPREPLY. A name with a space stays one. */
function reply(values: Values): string {
  if (values === 'anything') return 'return'
  if (values === 'files' || values === 'folders')
    return `compopt -o filenames; mapfile -t COMPREPLY < <(${GENERATORS[values]} -- "$cur"); return`
  return `mapfile -t COMPREPLY < <(compgen -W ${quoted(values.join(' '))} -- "$cur"); return`
}

function caseOf(command: CompletedCommand): string {
  const { name, help } = command
  const flags = flagsOf(command)
  // Flags whose values are the same share a line.
  const byReply = new Map<string, string[]>()
  for (const [flag, definition] of flags) {
    const values = valuesOf(definition)
    if (values === undefined) continue
    const text = reply(values)
    byReply.set(text, [...(byReply.get(text) ?? []), `--${flag}`])
  }
  const cases = [...byReply].map(([text, names]) => `        ${names.join('|')}) ${text} ;;`)
  const names = flags.map(([flag]) => `--${flag}`).join(' ')
  const operands = help.operands === undefined ? 'anything' : help.operands
  const verbs =
    help.verbs === undefined ? [] : [`      if [ "$COMP_CWORD" -eq 2 ]; then ${reply(help.verbs)}; fi`]
  return [
    `    ${name})`,
    '      case $prev in',
    ...cases,
    '      esac',
    `      if [[ $cur == -* ]]; then ${reply(names.split(' '))}; fi`,
    ...verbs,
    `      ${reply(operands)} ;;`,
  ].join('\n')
}

export function bashScript(commands: readonly CompletedCommand[]): string {
  const names = [...commands.map(({ name }) => name), '--help', '--version']
  return `# bash completion for mmsb. To have it in every shell:
#   mmsb completion bash > ~/.local/share/bash-completion/completions/mmsb
_mmsb() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]}
  # --flag=value comes as three words.
  if [ "$cur" = = ]; then cur=
  elif [ "$prev" = = ]; then prev=\${COMP_WORDS[COMP_CWORD-2]}
  fi
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then ${reply(names)}; fi
  case \${COMP_WORDS[1]} in
${commands.map(caseOf).join('\n')}
  esac
}
complete -F _mmsb mmsb
`
}
