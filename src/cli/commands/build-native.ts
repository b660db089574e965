/**
 * `mmsb build-native`: builds the native library for this machine, with CUDA where nvcc is found. The one
 * that the package brings is for the CPU, and for Linux with glibc.
 */
import { buildLibrary, builtLibrary, thisMachine } from '../../ffi/library-file.js'
import { type CommandHelp, flagsOrHelp, HELP_FLAG, JSON_FLAG, StartError } from '../flags.js'
import { result } from '../output.js'

export const HELP: CommandHelp = {
  usage: 'mmsb build-native [OPTIONS]',
  flags: {
    cpu: { help: 'for the CPU only, even where nvcc is found' },
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [['mmsb build-native', 'build the library, with CUDA where nvcc is found']],
}

export async function buildNative(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  const failure = buildLibrary(thisMachine(), { cpuOnly: flags.switches.has('cpu'), output: 'shown' })
  if (failure !== undefined) throw new StartError(failure)
  const file = builtLibrary()
  result(flags, { file }, `ok: built ${file}`)
}
