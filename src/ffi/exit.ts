/**
 * The end of the process, without waiting for threads.
 *
 * `process.exit` joins the threads of Node, and so waits for a native call that another thread is in, which
 * can take minutes.
 *
 * Null because koffi has it for the process itself.
 */
import { koffi } from './koffi.js'

/** Ends the process at once. Files are left as after a crash. */
export function exitNow(code: number): never {
  koffi().load(null).func('void _exit(int)')(code)
  throw new Error('the process has not ended')
}
