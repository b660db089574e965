/**
 * The package that calls functions of native libraries, loaded when it is first needed. The only folder that
 * knows it.
 */
import type Koffi from 'koffi'
import { requirePackage } from '../installed-package.js'

let loaded: typeof Koffi | undefined

/** @throws UnusablePackage */
export function koffi(): typeof Koffi {
  loaded ??= requirePackage<typeof Koffi>('koffi')
  return loaded
}
