/** Completion for fish. */
import { type CompletedCommand, flagsOf, type Values, valuesOf } from './commands.js'

/** In single quotes fish knows the backslash. */
const quoted = (text: string): string => `'${text.replace(/[\\']/g, '\\$&')}'`

function taking(values: Values | undefined): string {
  if (values === undefined) return ''
  if (values === 'files') return ' -r -F'
  if (values === 'folders') return " -x -a '(__fish_complete_directories)'"
  return values === 'anything' ? ' -x' : ` -x -a ${quoted(values.join(' '))}`
}

function linesOf(command: CompletedCommand): string[] {
  const { name, summary, help } = command
  const here = `complete -c mmsb -n '__mmsb_is ${name}'`
  const lines = [`complete -c mmsb -n __mmsb_is_first -a ${name} -d ${quoted(summary)}`]
  for (const [flag, definition] of flagsOf(command))
    lines.push(`${here} -l ${flag}${taking(valuesOf(definition))} -d ${quoted(definition.help)}`)
  if (help.verbs !== undefined)
    lines.push(`complete -c mmsb -n '__mmsb_is ${name} 2' -a ${quoted(help.verbs.join(' '))}`)
  if (help.operands === 'files') lines.push(`${here} -F`)
  if (help.operands === 'folders') lines.push(`${here} -a '(__fish_complete_directories)'`)
  return lines
}

export function fishScript(commands: readonly CompletedCommand[]): string {
  return `# fish completion for mmsb. To have it in every shell:
#   mmsb completion fish > ~/.config/fish/completions/mmsb.fish
function __mmsb_is_first
  test (count (commandline -opc)) -eq 1
end
# Whether the line is of this command and, if a number is given, has so many words before the one to complete.
function __mmsb_is
  set -l words (commandline -opc)
  test (count $words) -ge 2; and test "$words[2]" = "$argv[1]"; or return 1
  test (count $argv) -lt 2; or test (count $words) -eq $argv[2]
end
complete -c mmsb -f
${commands.flatMap(linesOf).join('\n')}
`
}
