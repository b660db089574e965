/** A writer on a connection whose other end is the test, and what the test reads of its messages. */
import type { Test } from 'tap'
import { StreamWriter, type WriterDeps } from '../../src/client/stream/writer.js'
import type { Delta } from '../../src/client/types.js'
import { MmsbError as ServerError } from '../../src/errors.js'
import { ackMessage, refusalMessage } from '../../src/http/stream/binary-messages.js'
import { deltaValues } from '../../src/state/delta.js'
import { decodeFrame, splitFrames } from '../../src/state/frame/reader.js'
import { turns } from '../lib/wait.js'
import { fate, type PlayedSocket, played } from './played.js'

export const HISTORY = `${'ab'.repeat(16)}.${'cd'.repeat(8)}`

export type Protocol = 'binary' | 'json'

interface Setting {
  readonly pageOf?: WriterDeps['pageOf']
  readonly askHistory?: WriterDeps['askHistory']
  /** The connection learns it at once. */
  readonly history?: string | undefined
}

/** A writer on an open connection, and what it calls. */
export function writing(t: Test, protocol: Protocol, given: Setting = {}) {
  const { pageOf, askHistory, history = HISTORY } = given
  const calls: string[] = []
  const all = played(t, { protocol })
  let keys = 0
  const writer = new StreamWriter({
    connection: all.connection,
    pageOf: (name) => {
      calls.push(`page ${name}`)
      return pageOf === undefined ? { id: 5, dtype: 'u8', elements: 64 } : pageOf(name)
    },
    forgetPage: (name) => calls.push(`forget ${name}`),
    askHistory: () => {
      calls.push('ask')
      return askHistory?.() ?? Promise.resolve()
    },
    newKey: () => `key${keys++}`,
    onEnd: () => calls.push('end'),
  })
  const { sockets, connection } = all
  sockets[0]!.accept()
  if (history !== '') connection.learn(history)
  /** Its rejection is looked at later, or not at all. */
  const later = <T>(promise: Promise<T>): Promise<T> => {
    promise.catch(() => {})
    return promise
  }
  return {
    writer: {
      patch: (page: string, delta: Delta) => later(writer.patch(page, delta)),
      transact: (...given: Parameters<StreamWriter['transact']>) => later(writer.transact(...given)),
      close: () => writer.close(),
      fail: (error: unknown) => writer.fail(error),
      get pending() {
        return writer.pending
      },
    },
    connection,
    calls,
    sockets,
    get socket() {
      return all.socket
    },
  }
}

/** The transactions of one message: key, page ids and values of each. */
function contents(message: string | Uint8Array): unknown[] {
  if (typeof message === 'string') {
    const { key, ops } = JSON.parse(message) as { key: string; ops: { page: string; values: number[] }[] }
    return [[key, ...ops.map(({ values }) => values)]]
  }
  return splitFrames(message).map((bytes) => {
    const { key, commands } = decodeFrame(Uint8Array.from(bytes))
    return [key, ...commands.map((command) => (command.type === 4 ? [...deltaValues(command)] : []))]
  })
}

export const all = (socket: PlayedSocket): unknown[] => socket.sent.flatMap(contents)

/** Answers transactions by number of the frame or, in JSON, by the position of the message. */
export function answer(socket: PlayedSocket, protocol: Protocol, number: number, how: number | string): void {
  const id = protocol === 'json' ? socket.told[number - 1]!.id : undefined
  if (typeof how === 'number') {
    if (protocol === 'json') socket.say({ type: 'ack', id, epoch: how })
    else socket.say(ackMessage([{ first: number, count: 1 }], how))
  } else if (protocol === 'json') {
    socket.say({ type: 'error', id, code: how, detail: 'no' })
  } else {
    socket.say(refusalMessage(number, new ServerError(how as 'PRECONDITION_FAILED', 'no')))
  }
}

/** What became of each promise. */
export async function fates(promises: readonly Promise<unknown>[]): Promise<unknown[]> {
  await turns()
  const shown = (answer: unknown) => (answer as { epoch: number } | undefined)?.epoch ?? 'done'
  return Promise.all(promises.map((promise) => fate(promise, shown)))
}
