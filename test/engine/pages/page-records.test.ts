/** Records made from logged definitions keep no bytes of the log. */
import t from 'tap'
import { derivedOfLogged } from '../../../src/engine/pages/page-records.js'
import { encodeDefinition } from '../../../src/kernels/op-catalogue.js'
import { compile, nameOf } from '../../kernels/pages.js'

t.test('a definition is copied, even from a Buffer, whose slice is no copy', async (t) => {
  const logged = encodeDefinition(compile({ op: 'map', inputs: { x: 'prices' }, expr: 'x * 2' }))
  const bytes = Buffer.from(logged)
  const { definition, params } = derivedOfLogged(bytes, 4, nameOf)
  const before = params.slice()
  bytes.fill(0)
  t.same([...definition], [...logged])
  t.same([...params], [...before])
})
