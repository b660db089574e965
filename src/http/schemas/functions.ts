/** Requests and answers of the function routes. */

import { FUNCTION_MAX_PARAMETERS } from '../../limits.js'
import { Type } from '../typebox.js'
import { CLOSED, Epoch, Name } from './common.js'

export const FunctionBody = Type.Object(
  {
    params: Type.Array(Type.String(), { maxItems: FUNCTION_MAX_PARAMETERS }),
    expr: Type.String({
      description: 'An expression over the parameters; docs/guide/OPS.md describes the language.',
    }),
  },
  { ...CLOSED, title: 'Function' },
)

export const FunctionAnswer = Type.Object({ epoch: Epoch, worldAge: Type.Integer() }, CLOSED)

export const FunctionView = Type.Object(
  {
    name: Name,
    params: Type.Array(Type.String()),
    expr: Type.String(),
    worldAge: Type.Integer({ description: 'World age of its last definition.' }),
    epoch: Epoch,
    pages: Type.Array(Name, { description: 'Pages that use it, directly or through other functions.' }),
  },
  CLOSED,
)

export const FunctionList = Type.Object(
  { worldAge: Type.Integer(), functions: Type.Array(FunctionView) },
  CLOSED,
)
