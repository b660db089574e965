/** The built library, as a user gets it; its types come from the sources, so that this compiles before a build. */

type Library = typeof import('../../src/index.js')

export async function loadLibrary(): Promise<Library> {
  return (await import(new URL('../../dist/index.js', import.meta.url).href)) as Library
}
