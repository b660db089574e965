/** Opens SQLite databases. The package is loaded when the first one is opened. */
import type Database from 'better-sqlite3'
import { requirePackage, UnusablePackage } from '../../installed-package.js'

let loaded: typeof Database | undefined

/** The package without its native part, or with that of another version of Node, loads but opens nothing. */
function load(): typeof Database {
  const Constructor = requirePackage<typeof Database>('better-sqlite3')
  try {
    new Constructor(':memory:').close()
  } catch (cause) {
    throw new UnusablePackage('better-sqlite3', cause)
  }
  return Constructor
}

/** Opens a database. @throws SqliteError, and UnusablePackage */
export function openDatabase(file: string, options?: Database.Options): Database.Database {
  loaded ??= load()
  return new loaded(file, options)
}
