/**
 * The limits that hold for every principal, as an operator writes them: JSON, or the name of a file of it.
 */
import { readFileSync } from 'node:fs'
import { MmsbError } from '../../errors.js'
import { limitsFault, type PrincipalLimits } from './principal-limits.js'

/** @throws MmsbError INVALID_REQUEST */
export function readDefaultLimits(given: string): PrincipalLimits {
  const isFile = !given.trimStart().startsWith('{')
  const where = isFile ? given : 'the limits of principals'
  let limits: unknown
  try {
    limits = JSON.parse(isFile ? readFileSync(given, 'utf8') : given)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new MmsbError(
      'INVALID_REQUEST',
      `${where}: ${code === undefined ? 'is not JSON' : `cannot be read: ${code}`}`,
    )
  }
  const fault = limitsFault(limits)
  if (fault !== undefined) throw new MmsbError('INVALID_REQUEST', `${where}: ${fault}`)
  return limits as PrincipalLimits
}
