/**
 * Packages of npm that have native code. They are optional dependencies, because some machines cannot have
 * them and still use mmsb/client. So each is loaded when it is first needed, and one that does not work gives
 * an error that says why.
 */
import { createRequire } from 'node:module'
import { MmsbError } from './errors.js'

const require = createRequire(import.meta.url)

/** A package that does not work here: no fault of a data folder. */
export class UnusablePackage extends MmsbError {
  constructor(name: string, cause: unknown) {
    const { version, versions } = process
    const why = (cause instanceof Error ? cause.message : String(cause)).replaceAll(/\s+/g, ' ')
    const isThere = (cause as { code?: unknown }).code !== 'MODULE_NOT_FOUND'
    super(
      'INTERNAL',
      isThere
        ? `${name} cannot be loaded by Node ${version} (NODE_MODULE_VERSION ${versions.modules}): ${why} ` +
            `Use the Node it was installed with, or run \`npm rebuild ${name}\`.`
        : `The package ${name} is missing. \`npm install ${name}\` installs it, or says what it needs: ` +
            'python3, make and g++ where there is no ready binary for the machine.',
      undefined,
      { cause },
    )
  }
}

/** Loads a package. @throws UnusablePackage */
export function requirePackage<T>(name: string): T {
  try {
    return require(name) as T
  } catch (cause) {
    throw new UnusablePackage(name, cause)
  }
}
