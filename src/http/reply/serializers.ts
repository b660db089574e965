/**
 * Compiles the serializer of an answer when the answer is first sent: compiling all of them was a good part
 * of a start, and most are never sent.
 */
import {
  type SerializerCompiler,
  type SerializerFactory,
  SerializerSelector,
} from '@fastify/fast-json-stringify-compiler'

const buildAtOnce = SerializerSelector()

export const buildSerializer: SerializerFactory = (schemas, options) => {
  const compile: SerializerCompiler = buildAtOnce(schemas, options)
  return (route) => {
    let serialize: ReturnType<SerializerCompiler> | undefined
    return (answer) => {
      serialize ??= compile(route)
      return serialize(answer)
    }
  }
}
