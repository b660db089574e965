/**
 * Encoding of messages that are too large to be encoded in one go.
 *
 * Invariants: one message is encoded at a time, in slices, however many connections wait for one; each is
 * encoded once for all its receivers. What it is encoded from is taken at once.
 */
import { OCTETS_PIECE_BYTES } from '../../limits.js'
import { type Sliced, Slices } from '../../slices.js'
import { type DataMessage, jsonTailTexts, type StreamMessage } from '../../stream/messages.js'
import { bodyPieces } from './binary-messages.js'

/** What an encoding calls the part of a message that is the same for every receiver. */
export type Encoding = 'json' | 'bin'

const slices = new Slices()
let last: Promise<unknown> = Promise.resolve()

/** Resolves when the message is encoded; undefined if that needs no waiting. */
export function encodingOf(encoding: Encoding, message: StreamMessage): Promise<void> | undefined {
  if (!('encoded' in message) || !message.isLarge || message.isEncoded(encoding)) return undefined
  return message.encoded(`${encoding} later`, () => {
    message.gather()
    const done = last.then(() =>
      slices.run(encoding === 'json' ? encodingJson(message) : encodingBody(message)),
    )
    last = done.catch(() => {})
    return done
  })
}

function* encodingJson(message: DataMessage): Sliced<void> {
  const pieces: Buffer[] = []
  let text = ''
  for (const more of jsonTailTexts(message)) {
    text += more
    if (text.length >= OCTETS_PIECE_BYTES) {
      pieces.push(Buffer.from(text))
      text = ''
    }
    yield
  }
  pieces.push(Buffer.from(text))
  message.encoded('json', () => pieces)
}

function* encodingBody(message: DataMessage): Sliced<void> {
  const pieces = yield* bodyPieces(message)
  message.encoded('bin', () => pieces)
}
