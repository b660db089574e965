/** Every abuser, in the order of the report. */
import type { Abuser } from '../field.js'
import { BODIES } from './bodies.js'
import { COSTS } from './costs.js'
import { READS } from './reads.js'
import { SOCKETS } from './sockets.js'
import { STREAMS } from './streams.js'
import { WRITES } from './writes.js'

export const ABUSERS: readonly Abuser[] = [...COSTS, ...BODIES, ...READS, ...STREAMS, ...SOCKETS, ...WRITES]
