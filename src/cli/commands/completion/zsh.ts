/** Completion for zsh. */
import { type CompletedCommand, flagsOf, quoted, type Values, valuesOf } from './commands.js'

const ACTIONS = { files: '_files', folders: '_files -/', anything: '' } as const

const actionOf = (values: Values): string =>
  typeof values === 'string' ? ACTIONS[values] : `(${values.join(' ')})`

/** What _arguments takes for its own in an explanation. */
const explained = (text: string): string => text.replace(/[[\]:\\]/g, '\\$&')

function caseOf(command: CompletedCommand): string {
  const { name, help } = command
  const flags = flagsOf(command).map(([flag, definition]) => {
    const values = valuesOf(definition)
    const taking = values === undefined ? '' : `:${definition.value}:${actionOf(values)}`
    const many = definition.isList === true ? '*' : ''
    return quoted(
      `${many}--${flag}${values === undefined ? '' : '='}[${explained(definition.help)}]${taking}`,
    )
  })
  const verbs = help.verbs === undefined ? [] : [quoted(`1:what:(${help.verbs.join(' ')})`)]
  // Without it, flags behind an operand are not completed.
  const operands = [quoted(`*:operand:${ACTIONS[help.operands ?? 'anything']}`)]
  const specs = [...flags, ...verbs, ...operands]
  return `    ${name})\n      _arguments ${specs.join(' \\\n        ')} ;;`
}

export function zshScript(commands: readonly CompletedCommand[]): string {
  const list = commands.map(({ name, summary }) => `    ${quoted(`${name}:${summary}`)}`)
  return `#compdef mmsb
# zsh completion for mmsb. To have it in every shell, write it to a folder of $fpath:
#   mmsb completion zsh > "\${fpath[1]}/_mmsb"
_mmsb() {
  local -a commands
  commands=(
${list.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  # The command's own arguments.
  shift words
  (( CURRENT-- ))
  case $command in
${commands.map(caseOf).join('\n')}
  esac
}
if [ "$funcstack[1]" = _mmsb ]; then _mmsb "$@"; else compdef _mmsb mmsb; fi
`
}
