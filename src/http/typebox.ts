/**
 * The schema library, in the one place that loads it. It has 700 modules, and loading them took a third of
 * the processor time of a start; so the build makes this file one module, with the library in it.
 *
 * Invariant: no other file imports the library; a test holds that.
 */
import Type, { type Static, type TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import { Check } from 'typebox/value'

export { Check, Compile, type Static, type TSchema, Type }
