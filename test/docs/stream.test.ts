/** The conversations of docs/guide/STREAM.md, held with a server. */
import t from 'tap'
import { listen, serve } from '../http/helpers.js'
import { folder } from '../lib/folder.js'
import { Client, type Message } from '../stream/helpers.js'
import { blocksOf, readDocument } from './markdown.js'

t.test('what the client sends is answered as written', async (t) => {
  const dataDir = folder(t)
  const served = await serve(t, { dataDir, fsync: 'off' })
  const { port } = await listen(served)
  await served.bus.create('a', { dtype: 'i32', shape: [3] })
  await served.bus.derive('twice', { op: 'map', inputs: { a: 'a' }, expr: 'a * 2' })
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  const blocks = blocksOf(readDocument('docs/guide/STREAM.md')).filter(
    ({ language }) => language === 'stream',
  )
  t.ok(blocks.length > 2)
  for (const { text } of blocks) {
    const lines = text.trimEnd().split('\n')
    let seen = client.messages.length
    for (const line of lines) {
      const message = JSON.parse(line.slice(2)) as Message
      if (line.startsWith('> ')) {
        client.send(message)
        continue
      }
      const mine = (): Message[] => client.messages.slice(seen).filter(({ id }) => id === message.id)
      await client.until(() => mine().length > 0, line)
      const answer = mine()[0]!
      if (message.type === 'error') t.match(answer, message, line)
      else t.same(answer, inHistory(message, served.bus.historyId), line)
      seen = client.messages.indexOf(answer) + 1
    }
  }
})

/** The message with this history in the place of the one in the document. */
const inHistory = (message: Message, history: string): Message =>
  message.history === undefined ? message : { ...message, history }
