/** The commands of `mmsb`, by name. The file of a command is loaded only when it is used. */
import type { CompletedCommand } from './commands/completion/commands.js'
import type { CommandHelp } from './flags.js'

export interface LoadedCommand {
  readonly help: CommandHelp
  readonly run: (args: readonly string[]) => Promise<void>
}

export interface Command {
  readonly summary: string
  readonly load: () => Promise<LoadedCommand>
}

export type CommandTable = Readonly<Record<string, Command>>

export const COMMANDS: CommandTable = {
  serve: {
    summary: 'serve the bus over HTTP and WebSocket',
    load: async () => {
      const { HELP, serve } = await import('./commands/serve.js')
      return { help: HELP, run: serve }
    },
  },
  config: {
    summary: 'check and show the configuration of `mmsb serve`',
    load: async () => {
      const { config, HELP } = await import('./commands/config.js')
      return { help: HELP, run: config }
    },
  },
  status: {
    summary: 'say how a running server is',
    load: async () => {
      const { HELP, status } = await import('./commands/remote/status.js')
      return { help: HELP, run: status }
    },
  },
  stats: {
    summary: 'print counts, sizes and timings of a server',
    load: async () => {
      const { HELP, stats } = await import('./commands/remote/stats.js')
      return { help: HELP, run: stats }
    },
  },
  top: {
    summary: 'show how busy a server is, again and again',
    load: async () => {
      const { HELP, top } = await import('./commands/remote/top.js')
      return { help: HELP, run: top }
    },
  },
  checkpoint: {
    summary: 'make a running server write a checkpoint',
    load: async () => {
      const { HELP, checkpoint } = await import('./commands/remote/checkpoint.js')
      return { help: HELP, run: checkpoint }
    },
  },
  get: {
    summary: 'print a page, or write it to a .npy file',
    load: async () => {
      const { HELP, get } = await import('./commands/remote/get.js')
      return { help: HELP, run: get }
    },
  },
  set: {
    summary: 'write values to a page',
    load: async () => {
      const { HELP, set } = await import('./commands/remote/set.js')
      return { help: HELP, run: set }
    },
  },
  watch: {
    summary: 'print the changes of pages as they come',
    load: async () => {
      const { HELP, watch } = await import('./commands/remote/watch.js')
      return { help: HELP, run: watch }
    },
  },
  doctor: {
    summary: 'check a data folder and its machine, or a running server',
    load: async () => {
      const { HELP, doctor } = await import('./commands/doctor/doctor.js')
      return { help: HELP, run: doctor }
    },
  },
  backup: {
    summary: 'copy a data folder; its server may be running',
    load: async () => {
      const { HELP, backup } = await import('./commands/backup.js')
      return { help: HELP, run: backup }
    },
  },
  restore: {
    summary: 'make a data folder from a backup',
    load: async () => {
      const { HELP, restore } = await import('./commands/restore.js')
      return { help: HELP, run: restore }
    },
  },
  export: {
    summary: 'write pages as .npy files',
    load: async () => {
      const { HELP, exportPages } = await import('./commands/export.js')
      return { help: HELP, run: exportPages }
    },
  },
  import: {
    summary: 'write .npy files to pages',
    load: async () => {
      const { HELP, importPages } = await import('./commands/import.js')
      return { help: HELP, run: importPages }
    },
  },
  events: {
    summary: 'export change events to a file, or print such a file',
    load: async () => {
      const { HELP, events } = await import('./commands/events.js')
      return { help: HELP, run: events }
    },
  },
  log: {
    summary: 'check a data folder, and repair its log',
    load: async () => {
      const { HELP, log } = await import('./commands/log.js')
      return { help: HELP, run: log }
    },
  },
  index: {
    summary: 'rebuild the index of a log',
    load: async () => {
      const { HELP, index } = await import('./commands/index-rebuild.js')
      return { help: HELP, run: index }
    },
  },
  migrate: {
    summary: 'move pages to the newest versions of their ops',
    load: async () => {
      const { HELP, migrate } = await import('./commands/migrate.js')
      return { help: HELP, run: migrate }
    },
  },
  audit: {
    summary: 'check the audit trail of a data folder',
    load: async () => {
      const { audit, HELP } = await import('./commands/audit.js')
      return { help: HELP, run: audit }
    },
  },
  token: {
    summary: 'make, list and revoke the tokens of a token file',
    load: async () => {
      const { HELP, token } = await import('./commands/token.js')
      return { help: HELP, run: token }
    },
  },
  'build-native': {
    summary: 'build the native library for this machine, with CUDA where nvcc is found',
    load: async () => {
      const { HELP, buildNative } = await import('./commands/build-native.js')
      return { help: HELP, run: buildNative }
    },
  },
  verify: {
    summary: 'replay a data folder and compare digests',
    load: async () => {
      const { HELP, verify } = await import('./commands/verify.js')
      return { help: HELP, run: verify }
    },
  },
  completion: {
    summary: 'print the completion of these commands for a shell',
    load: async () => {
      const { HELP, completion } = await import('./commands/completion/completion.js')
      return { help: HELP, run: (args) => completion(args, describeAll) }
    },
  },
}

/** The commands with their help. */
async function describeAll(): Promise<CompletedCommand[]> {
  const described: CompletedCommand[] = []
  for (const [name, { summary, load }] of Object.entries(COMMANDS))
    described.push({ name, summary, help: (await load()).help })
  return described
}
