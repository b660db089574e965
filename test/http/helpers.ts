/** An app over its own bus, in memory by default, and ways to send it requests. */
import type { InjectOptions, LightMyRequestResponse } from 'fastify'
import type { Test } from 'tap'
import type { Host } from '../../src/engine/host.js'
import type { BusOptions } from '../../src/engine/types.js'
import type { ErrorCode } from '../../src/errors.js'
import { ERRORS } from '../../src/errors.js'
import { type AppOptions, buildApp, type MmsbApp } from '../../src/http/app.js'
import { boundPort } from '../../src/http/framework.js'
import { etagOf } from '../../src/http/request/negotiate.js'
import { Bus } from '../../src/index.js'

export interface Served {
  readonly bus: Bus
  readonly server: MmsbApp
  /** Sends a JSON request; returns the answer with its body parsed. */
  call(method: Method, url: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>
  inject(options: InjectOptions): Promise<LightMyRequestResponse>
}

export type Method = 'GET' | 'PUT' | 'PATCH' | 'POST' | 'DELETE' | 'HEAD'

export interface Answer {
  readonly status: number
  readonly headers: Record<string, unknown>
  // Tests read answers of every shape; tap's matchers take unknown.
  readonly body: Record<string, unknown>
  readonly raw: Buffer
}

export async function serve(
  t: Test,
  busOptions: BusOptions = {},
  appOptions: Partial<AppOptions> = {},
  host?: Host,
): Promise<Served> {
  const options: BusOptions = { backend: 'cpu', threads: 1, ...busOptions }
  const bus = await (host === undefined ? Bus.open(options) : Bus.open(options, host))
  const server = await buildApp({ bus, ...appOptions })
  t.teardown(async () => {
    await server.close()
    await bus.close()
  })
  const inject = (options: InjectOptions): Promise<LightMyRequestResponse> => server.app.inject(options)
  return {
    bus,
    server,
    inject,
    call: async (method, url, body, headers = {}) => {
      const isRaw = Buffer.isBuffer(body) || typeof body === 'string'
      const type = Buffer.isBuffer(body) ? 'application/octet-stream' : 'application/json'
      const response = await inject({
        method,
        url,
        headers: { ...(body === undefined ? {} : { 'content-type': type }), ...headers },
        ...(body === undefined ? {} : { payload: isRaw ? body : JSON.stringify(body) }),
      })
      return answerOf(response)
    },
  }
}

/** The ETag of a version on this server. */
export const tagsOf =
  ({ bus }: Served) =>
  (version: number): string =>
    etagOf(bus.historyId, version)

function answerOf(response: LightMyRequestResponse): Answer {
  const isJson = /[/+]json/.test(String(response.headers['content-type']))
  return {
    status: response.statusCode,
    headers: response.headers,
    body: isJson && response.body !== '' ? (JSON.parse(response.body) as Record<string, unknown>) : {},
    raw: response.rawPayload,
  }
}

/** Listens on a free port of the loopback interface. */
export async function listen({ server }: Served): Promise<{ port: number; url: string }> {
  await server.app.listen({ host: '127.0.0.1', port: 0 })
  const port = boundPort(server.app)!
  return { port, url: `http://127.0.0.1:${port}` }
}

/** Asserts that an answer is the problem document of `code`. */
export function isProblem(t: Test, answer: Answer, code: ErrorCode, message?: string): void {
  const { status, title, hint } = ERRORS[code]
  t.equal(answer.status, status, `${message ?? code}: status, ${JSON.stringify(answer.body)}`)
  t.match(answer.headers['content-type'], /^application\/problem\+json/)
  t.match(answer.body, {
    type: `urn:mmsb:error:${code.toLowerCase()}`,
    status,
    code,
    title,
    hint,
    detail: String,
  })
}

export const SOURCE = { dtype: 'f32', shape: [4] }
