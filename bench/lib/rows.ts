/** The rows of the benchmarks by name; each is loaded when it runs. */
import type { Row } from './types.js'

export const ROWS: Readonly<Record<string, () => Promise<Row>>> = {
  disk: async () => (await import('../rows/disk.js')).disk,
  time: async () => (await import('../rows/time.js')).time,
  store: async () => (await import('../rows/store.js')).store,
  recovery: async () => (await import('../rows/recovery.js')).recovery,
  propagation: async () => (await import('../rows/propagation.js')).propagation,
  maps: async () => (await import('../rows/maps.js')).maps,
  ops: async () => (await import('../rows/ops.js')).ops,
  costs: async () => (await import('../rows/costs.js')).costs,
  deltas: async () => (await import('../rows/deltas.js')).deltas,
  rest: async () => (await import('../rows/rest.js')).rest,
  access: async () => (await import('../rows/access.js')).access,
  websocket: async () => (await import('../rows/websocket.js')).websocket,
  latency: async () => (await import('../rows/latency.js')).latency,
  idle: async () => (await import('../rows/idle.js')).idle,
}
