/** What a request gets from its sender: the bus that it works with, made once for each principal. */
import t from 'tap'
import { TokenAuthenticator } from '../../src/auth/authenticator.js'
import { Tickets } from '../../src/auth/tickets.js'
import { addToken } from '../../src/auth/token-file.js'
import { authenticate } from '../../src/http/authentication.js'
import type { AppContext } from '../../src/http/context.js'
import { createFastify } from '../../src/http/framework.js'
import { Bus } from '../../src/index.js'

t.test('all requests of a principal work with one bus, those of another with another', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  const { app } = createFastify(bus.limits, {})
  t.teardown(async () => {
    await app.close()
    await bus.close()
  })
  const file = `${t.testdir()}/tokens.json`
  const [ann, bob] = ['ann', 'bob'].map((id) => addToken(file, { id, scopes: ['read:*'] }).token)
  const authenticator = new TokenAuthenticator(file)
  authenticate(app, { bus, authenticator, tickets: new Tickets() } as Partial<AppContext> as AppContext)
  const seen: unknown[] = []
  app.get('/', { config: { needs: 'login' } }, async (request) => {
    seen.push(request.bus)
    return {}
  })
  for (const token of [ann, ann, bob, ann]) {
    const { statusCode } = await app.inject({ url: '/', headers: { authorization: `Bearer ${token}` } })
    t.equal(statusCode, 200)
  }
  const numbers = seen.map((one) => seen.indexOf(one))
  t.same(numbers, [0, 0, 2, 0])
  t.notOk(seen.includes(bus), 'and none with the bus itself')
})
