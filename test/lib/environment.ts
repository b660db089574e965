/** The environment of the programs that tests start. */

/**
 * Of the environment of whoever runs the tests, no more than this: the rest may change what a program does.
 */
const INHERITED = ['PATH', 'HOME', 'TMPDIR', 'LD_LIBRARY_PATH', 'NODE_V8_COVERAGE'] as const

/** What a program needs, and none of the settings for Node or for the server that the shell may have. */
export function plainEnvironment(): Record<string, string> {
  return Object.fromEntries(
    INHERITED.flatMap((name) => {
      const value = process.env[name]
      return value === undefined ? [] : [[name, value] as const]
    }),
  )
}
