/**
 * Where the checkout lies, and how a test starts a program of the house. `make test` runs tests that were
 * compiled into build/tests, over dist/. `npx tap run FILE` loads the sources, which tsx compiles on the way.
 * So no test may find a file by its own place.
 */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const IS_COMPILED = import.meta.url.endsWith('.js')
/** What the relative imports of tests start from. */
const LOADED_FROM = new URL('../../', import.meta.url)

/** The folder of the checkout, with a slash at its end. */
export const ROOT = fileURLToPath(checkoutAbove(LOADED_FROM))

function checkoutAbove(folder: URL): URL {
  return existsSync(new URL('package.json', folder)) ? folder : checkoutAbove(new URL('..', folder))
}

/** The URL from which this process loads a module, which is named by its source: `src/index.ts`. */
export function moduleUrl(source: string): string {
  return new URL(IS_COMPILED ? source.replace(/\.ts$/, '.js') : source, LOADED_FROM).href
}

/** The options with which Node runs modules of the house. */
export const NODE_ARGS: readonly string[] = IS_COMPILED
  ? []
  : ['--import', new URL('node_modules/tsx/dist/loader.mjs', LOADED_FROM).href]

/** The arguments with which Node runs a module as a program: `test/abuse/abuser.ts`. */
export const programArgs = (source: string): string[] => [...NODE_ARGS, fileURLToPath(moduleUrl(source))]
