/**
 * `mmsb completion`: prints a script that completes commands, flags and their values in a shell. It is made
 * from the tables that `--help` prints, and starts nothing when it is used.
 */
import { type CommandHelp, HELP_FLAG, lineOrHelp, operandOf, UsageError } from '../../flags.js'
import { bashScript } from './bash.js'
import type { CompletedCommand } from './commands.js'
import { fishScript } from './fish.js'
import { zshScript } from './zsh.js'

const SCRIPTS = { bash: bashScript, zsh: zshScript, fish: fishScript } as const

export const HELP: CommandHelp = {
  usage: 'mmsb completion bash|zsh|fish',
  flags: { help: HELP_FLAG },
  examples: [
    ['source <(mmsb completion bash)', 'in this shell'],
    ['mmsb completion bash > ~/.local/share/bash-completion/completions/mmsb', 'in every bash'],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell reads it
    ['mmsb completion zsh > "${fpath[1]}/_mmsb"', 'in every zsh'],
    ['mmsb completion fish > ~/.config/fish/completions/mmsb.fish', 'in every fish'],
  ],
  verbs: Object.keys(SCRIPTS),
}

/** `commands`: those that the shell is to complete. */
export async function completion(
  args: readonly string[],
  commands: () => Promise<readonly CompletedCommand[]>,
): Promise<void> {
  const line = lineOrHelp(args, HELP)
  if (line === undefined) return
  const shell = operandOf(line, 'the shell (bash, zsh or fish)')
  if (!Object.hasOwn(SCRIPTS, shell))
    throw new UsageError(`${JSON.stringify(shell)} is not one of ${Object.keys(SCRIPTS).join(', ')}`)
  process.stdout.write(SCRIPTS[shell as keyof typeof SCRIPTS](await commands()))
}
