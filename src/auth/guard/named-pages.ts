/** The pages that a caller names in a definition or a question. */
import type { PastQuestion } from '../../engine/call-types.js'
import type { DerivedDefinition, PageDefinition } from '../../state/types.js'

export const isDerived = (definition: PageDefinition): definition is DerivedDefinition =>
  'derive' in definition

/** The names of pages in the inputs of a definition. */
export function namesIn(inputs: unknown): string[] {
  if (typeof inputs === 'string') return [inputs]
  return Object.values(Object(inputs) as Readonly<Record<string, unknown>>).flatMap(namesIn)
}

/** The pages that a question names. */
export function namesOf(question: PastQuestion): readonly string[] {
  switch (question.kind) {
    case 'epoch':
      return []
    case 'epochs':
      return question.query.page === undefined ? [] : [question.query.page]
    case 'history':
      return [question.name]
    case 'diff':
      return question.query.pages ?? []
  }
}
