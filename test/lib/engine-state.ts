/** The state of an engine with some pages, without a bus around it. */
import type { Test } from 'tap'
import { CompileBudget } from '../../src/engine/commands/compile-budget.js'
import { definePages } from '../../src/engine/commands/define-pages.js'
import type { Pending } from '../../src/engine/commands/pending.js'
import { writingCreates } from '../../src/engine/commands/transactions.js'
import { Batch, frameBuffers } from '../../src/engine/commit/batch.js'
import type { EngineState } from '../../src/engine/pages/engine-state.js'
import { type PageRecord, Registry } from '../../src/engine/pages/registry.js'
import { NativeContext } from '../../src/ffi/context.js'
import { Graph } from '../../src/graph/graph.js'
import { LimitGuard } from '../../src/operator-limits.js'
import { atOnce } from '../../src/slices.js'
import type { PageDefinition } from '../../src/state/types.js'

/** Empty. It is freed with the test. */
export function emptyState(t: Test, quotaBytes = 2 ** 24): EngineState {
  const context = new NativeContext({ backend: 'cpu', threads: 1, quotaBytes, hostMemoryOnly: true })
  t.teardown(() => context.close())
  return { registry: new Registry(), graph: new Graph(), context }
}

export type Definitions = Readonly<Record<string, PageDefinition>>

let nextId = 1

/** Records of pages that can be created in this state, in order. */
export function recordsOf(state: EngineState, pages: Definitions): Promise<PageRecord[]> {
  const list = Object.entries(pages).map(([name, definition]) => ({ name, definition }))
  const budget = new CompileBudget(new LimitGuard())
  return definePages({ ...state, takePageId: () => nextId++, budget }, list)
}

/** A transaction that creates these pages. */
export async function creating(state: EngineState, pages: Definitions): Promise<Pending> {
  const records = await recordsOf(state, pages)
  return atOnce(writingCreates(records, state.registry.functions.worldAge))
}

/** Executes and publishes a batch. */
export function executed(state: EngineState, batch: Batch): void {
  const result = state.context.execute(batch.plan().steps, batch.frames(frameBuffers()))
  result.eachChangedId((id) => {
    const page = state.registry.byId(id)
    if (page !== undefined) page.version = batch.epoch
  })
  batch.publish()
}

/** A state with these pages, made in epoch 1. */
export async function stateWith(t: Test, pages: Definitions): Promise<EngineState> {
  const state = emptyState(t)
  const batch = new Batch(1, state)
  batch.stage(await creating(state, pages))
  executed(state, batch)
  return state
}
