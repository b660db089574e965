/**
 * The parts that together hold the state of one epoch: which pages exist, what derives from what, and their
 * bytes.
 */
import type { NativeContext } from '../../ffi/context.js'
import type { Graph } from '../../graph/graph.js'
import type { Registry } from './registry.js'

export interface EngineState {
  readonly registry: Registry
  readonly graph: Graph
  readonly context: NativeContext
}
