/** Page names with a meaning in JavaScript, such as `__proto__`, work like any other. */
import t from 'tap'
import { Client } from '../../stream/helpers.js'
import { listen, serve } from '../helpers.js'

t.test('pages named as members of Object', async (t) => {
  const served = await serve(t)
  const { call } = served
  const { port } = await listen(served)
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  await client.ask({ type: 'subscribe', id: '__proto__', pages: ['*'] })
  for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty', '1', '0']) {
    t.equal((await call('PUT', `/v1/pages/${name}`, { dtype: 'u8', shape: [2] })).status, 201, name)
    const derive = { op: 'map', inputs: { x: name }, expr: 'x + 1' }
    t.equal((await call('PUT', `/v1/pages/${name}.next`, { derive })).status, 201, name)
    const { body } = await call('PATCH', `/v1/pages/${name}/data`, { values: [7] })
    t.same(body, { epoch: body.epoch, version: body.epoch, page: name })
    const transaction = JSON.stringify({
      ops: [{ page: name, offset: 1, values: [8] }],
      expect: [{ page: name, version: body.version }],
    })
    const committed = await call('POST', '/v1/transactions', transaction)
    t.equal(
      JSON.stringify(committed.body),
      `{"epoch":${committed.body.epoch},"pages":{"${name}":${committed.body.epoch}}}`,
    )
    const { raw } = await call('GET', `/v1/read?pages=${name},${name}.next`)
    t.match(
      String(raw),
      `"${name}":{"dtype":"u8","shape":[2],"version":${committed.body.epoch},"values":[7,8]}`,
    )
    t.match(String(raw), `"${name}.next"`)
  }
  await client.until(() => client.messages.length === 1 + 6 * 4)
  t.ok(client.messages.every(({ id }) => id === '__proto__'))
})
