/**
 * The log of the server: one JSON object per line on standard error.
 *
 * Invariants: no credentials stand in it: headers that carry some are struck out by name, and whatever looks
 * like a token, wherever it stands. Of an error only its kind, text, code and stack are written: errors of
 * the HTTP parser carry the bytes of the request. At `debug` every request has a line, without its query.
 */
import { type DestinationStream, type Logger, pino } from 'pino'
import type { App } from '../context.js'
import { shownPath } from '../reply/problem.js'
import { senderOf } from './audit.js'

const CENSORED = '[redacted]'

/** Headers that carry credentials. */
const SECRET_HEADERS = [
  'authorization',
  'cookie',
  'proxy-authorization',
  'sec-websocket-protocol',
  'set-cookie',
] as const

/** Where headers may stand in what is logged. */
const PLACES = ['', 'headers', 'req.headers', 'request.headers', 'res.headers', '*.headers', '*']

/** What looks like a credential: what follows in group 1 is kept. */
const CREDENTIALS: readonly RegExp[] = [
  // `?ticket=`, and the same where it is written as a part of a URL.
  /(ticket(?:=|%3D))[^&\s"'\\<>]+/gi,
  /\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]+/gi,
  /(mmsb\.bearer\.)[A-Za-z0-9_=-]+/g,
  // Tokens of this server, and JSON Web Tokens.
  /(mmsb_)[A-Za-z0-9_.:-]{20,}/g,
  /()\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*/g,
]

/** The text without what looks like a credential. */
export function withoutCredentials(text: string): string {
  return CREDENTIALS.reduce((rest, pattern) => rest.replace(pattern, `$1${CENSORED}`), text)
}

/** `destination` is standard error, but in tests. */
export function createLogger(
  level: string,
  // Standard error of a worker goes through the main thread; the descriptor does not.
  destination: DestinationStream = pino.destination({ dest: 2, sync: true }),
): Logger {
  const paths = SECRET_HEADERS.flatMap((header) => PLACES.map((place) => `${place}["${header}"]`))
  return pino(
    {
      level,
      redact: { paths, censor: CENSORED },
      serializers: { err: errorOf, error: errorOf },
      hooks: { streamWrite: withoutCredentials },
    },
    destination,
  )
}

/** Of an error what people need to find it, and nothing that it carries besides. */
function errorOf(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  const { name, message, stack, cause } = error
  const { code } = error as NodeJS.ErrnoException
  return { type: name, message, code, stack, cause: cause === undefined ? undefined : errorOf(cause) }
}

/** Gives every request a line while the level of the log wants them. */
export function logRequests(app: App, mayChangeLevel = false): void {
  const isWanted = (): boolean => app.log.level === 'debug' || app.log.level === 'trace'
  // Where the level stays, requests pay for no hook.
  if (!mayChangeLevel && !isWanted()) return
  app.addHook('onResponse', (request, reply, done) => {
    if (!isWanted()) {
      done()
      return
    }
    app.log.debug(
      {
        ...senderOf(request),
        method: request.method,
        path: shownPath(request.url),
        status: reply.statusCode,
        code: reply.problem?.code,
        ms: Math.round(reply.elapsedTime * 100) / 100,
      },
      'request',
    )
    done()
  })
}
