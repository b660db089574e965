/**
 * The client: the whole API of the server as promises, async iterators and live arrays.
 *
 * Invariants: imports nothing from the server but src/wire, and nothing from a platform, so it runs in Node
 * and in browsers; the function that opens a WebSocket is handed in. After `close` it no longer keeps the
 * process alive.
 *
 * Null because JSON answers have it: `next` after the last part.
 *
 * Long because it lists every call with its documentation.
 */

import type { TypedArray } from '../wire/dtype.js'
import { STREAM_PATH } from '../wire/messages.js'
import {
  CALL,
  type Checks,
  checkDelta,
  checkFields,
  checkKey,
  checkName,
  checkOctets,
  checkOps,
  checkTransaction,
  checkValues,
  dtypesOf,
  isAny,
  isAtLeastZero,
  isCallable,
  isFlag,
  isInteger,
  isOneOf,
  isText,
  jsonOf,
  listOf,
  namesText,
  objectOf,
  RANGE,
  READ,
  textOf,
} from './arguments.js'
import { definitionText, deltaText, opsText, transactionText } from './codec/json.js'
import type { PageForm } from './codec/message.js'
import { octetsOf } from './codec/values.js'
import { closedError, invalidRequest, MmsbError } from './errors.js'
import { pageDataOf, readAnswerOf } from './http/answers.js'
import { Credentials } from './http/credentials.js'
import { newKey, Requests } from './http/requests.js'
import { baseOf, type Rest, type RestOptions, readJson, restOf } from './http/rest.js'
import { PROBE_TIMEOUT_MS, SILENCE_MAX_MS, TIMER_MAX_MS } from './limits.js'
import { Connection, type OpenSocket } from './stream/connection.js'
import { KnownPages } from './stream/known-pages.js'
import { readWhole } from './stream/large-snapshot.js'
import {
  type Mirror,
  type MirrorDeps,
  type MirrorOptions,
  type MirrorSet,
  mirrorOf,
  mirrorSetOf,
} from './stream/mirror.js'
import { type Subscription, subscriptionOf } from './stream/subscription.js'
import { StreamWriter, type Writer } from './stream/writer.js'
import type {
  CallOptions,
  Checkpoint,
  Delta,
  Derivation,
  DerivedOptions,
  DiffAnswer,
  DurableView,
  EpochEntry,
  FunctionDefinition,
  FunctionView,
  Graph,
  HistoryAnswer,
  NamedDefinition,
  Octets,
  Page,
  PageData,
  ReadAnswer,
  ReadOptions,
  SourceDefinition,
  Stats,
  Status,
  SubscribeOptions,
  TlsOptions,
  Transaction,
  TransactionAnswer,
  Values,
  VerifyAnswer,
  WriteAnswer,
  WriteOptions,
} from './types.js'

/** Options of `connect`. */
export interface ClientOptions extends RestOptions, TlsOptions {
  /** Subprotocol of the WebSocket; default: `binary`. */
  readonly protocol?: 'binary' | 'json'
  /** Bytes of values that may be queued for the reader of a subscription; default: 16 MiB. */
  readonly queueMaxBytes?: number
  /** A connection with a subscription is renewed when nothing arrives for this long; default: 20 s. */
  readonly silenceMaxMs?: number
}

/** node.ts takes these away. */
const inNodeOnly = (): string => 'can be given in Node only'

const OPTIONS: Checks = {
  headers: isAny,
  token: (value) =>
    typeof value === 'function' || (typeof value === 'string' && /^[!-~]+$/.test(value))
      ? undefined
      : 'is neither a token nor a function that gives one',
  ca: inNodeOnly,
  cert: inNodeOnly,
  key: inNodeOnly,
  fetch: isCallable,
  timeoutMs: isAtLeastZero,
  tryTimeoutMs: isAtLeastZero,
  retries: isAtLeastZero,
  protocol: isOneOf(['binary', 'json']),
  queueMaxBytes: isAtLeastZero,
  silenceMaxMs: (value) => (typeof value === 'number' && value > 0 ? undefined : 'is not a number above 0'),
}

interface Part {
  readonly offset?: number
  readonly count?: number
}

const OCTETS = 'application/octet-stream'

/** A client of one server. `connect` makes one. */
export class Client {
  /** The address of the server, without a trailing slash. */
  readonly url: string
  readonly #options: ClientOptions
  readonly #rest: Rest
  readonly #requests: Requests
  readonly #connection: Connection
  readonly #knownPages = new KnownPages((name) => this.page(name))
  /** Ends each open subscription, mirror and writer. */
  readonly #open = new Set<() => void>()
  #probing: Promise<MmsbError | undefined> | undefined
  #isClosed = false

  /** @throws MmsbError INVALID_REQUEST */
  constructor(url: string | URL, open: OpenSocket, options: ClientOptions = {}) {
    checkFields('options', options, OPTIONS, 'options.')
    this.url = baseOf(url)
    this.#options = options
    const credentials = new Credentials(options.token)
    this.#rest = restOf(
      this.url,
      options,
      (history) => this.#connection.learn(history),
      () => this.#connection.whenBack(),
      credentials,
    )
    this.#requests = new Requests(this.#rest)
    this.#connection = new Connection({
      url: `${this.url.replace(/^http/, 'ws')}${STREAM_PATH}`,
      protocol: options.protocol ?? 'binary',
      open,
      credentials,
      probe: () => this.#probe(),
      formOf: (page, epoch) => this.#formOf(page, epoch),
      onHistoryChanged: () => this.#knownPages.forgetAll(),
      silenceMaxMs: Math.min(options.silenceMaxMs ?? SILENCE_MAX_MS, TIMER_MAX_MS),
    })
  }

  // --- pages ---

  /** Creates a source page. @throws MmsbError PAGE_EXISTS if a page with another definition has the name */
  async create(name: string, definition: SourceDefinition, options: CallOptions = {}): Promise<Page> {
    const body = definitionText(definition)
    return this.#requests.json('PUT', pagePath(name), options, { body, isRepeatable: true })
  }

  /** Creates a derived page. */
  async derive(name: string, derive: Derivation, options: DerivedOptions & CallOptions = {}): Promise<Page> {
    checkFields('options', options, { ...CALL, dtype: isText, shape: isAny, location: isText })
    const { dtype, shape, location, ...call } = options
    const body = jsonOf('definition', { derive: objectOf('derive', derive), dtype, shape, location })
    return this.#requests.json('PUT', pagePath(name), call, { body, isRepeatable: true })
  }

  /** Creates pages in one epoch, all or none. */
  async createMany(
    pages: readonly NamedDefinition[],
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly pages: readonly Page[] }> {
    const definitions = listOf('pages', pages).map((page, i) => definitionText(page, `pages[${i}]`))
    return this.#requests.json('POST', '/v1/pages', options, { body: `{"pages":[${definitions.join(',')}]}` })
  }

  /** The description of a page. */
  async page(name: string, options: CallOptions = {}): Promise<Page> {
    return this.#requests.get(pagePath(name), options)
  }

  /** One part of the list of pages; `next` is the cursor of the next part, null after the last. */
  async pages(
    query: { readonly prefix?: string; readonly limit?: number; readonly cursor?: string } = {},
    options: CallOptions = {},
  ): Promise<{ readonly pages: readonly Page[]; readonly next: string | null }> {
    checkFields('query', query, { prefix: isText, limit: isInteger, cursor: isText })
    return this.#requests.get('/v1/pages', options, { ...query })
  }

  /** Deletes a page; with `cascade` also every page that derives from it. */
  async delete(
    name: string,
    options: CallOptions & { readonly cascade?: boolean } = {},
  ): Promise<{ readonly epoch: number }> {
    checkFields('options', options, { ...CALL, cascade: isFlag })
    const { cascade, ...rest } = options
    return this.#requests.json('DELETE', pagePath(name), rest, { query: { cascade } })
  }

  // --- data ---

  /** Reads the elements of a page, or `count` of them from `offset` on. */
  async read<T extends TypedArray = TypedArray>(
    name: string,
    options: ReadOptions & Part = {},
  ): Promise<PageData<T>> {
    checkFields('options', options, { ...READ, offset: isInteger, count: isInteger })
    const { epoch, offset, count } = options
    return this.#rest.call({
      ...options,
      method: 'GET',
      path: `${pagePath(name)}/data`,
      query: { epoch, offset, count },
      headers: { accept: OCTETS },
      isRepeatable: true,
      read: async (response) => pageDataOf<T>(name, response.headers, await response.arrayBuffer()),
    })
  }

  /** Reads several pages, all as of one epoch. */
  async readMany(names: readonly string[], options: ReadOptions = {}): Promise<ReadAnswer> {
    checkFields('options', options, READ)
    const { epoch, ...rest } = options
    return readAnswerOf(
      await this.#requests.get('/v1/read', rest, { pages: namesText('names', names), epoch }),
    )
  }

  /** Changes a part of a source page: dense, sparse, masked, or dense from raw bytes. */
  async patch(name: string, delta: Delta | Octets, options: WriteOptions = {}): Promise<WriteAnswer> {
    const path = `${pagePath(name)}/data`
    if ('octets' in objectOf('delta', delta)) {
      checkOctets(delta)
      const { offset, merge, octets } = delta as Octets
      return this.#requests.write('PATCH', path, octetsOf(octets), options, { query: { offset, merge } })
    }
    checkDelta(delta)
    const { offset, merge, values, indices, mask } = delta as Delta
    if (indices === undefined && mask === undefined && ArrayBuffer.isView(values)) {
      const headers = { 'mmsb-dtype': dtypesOf(values).join(',') }
      return this.#requests.write('PATCH', path, octetsOf(values), options, {
        query: { offset, merge },
        headers,
      })
    }
    return this.#requests.write('PATCH', path, deltaText(delta as Delta), options, {})
  }

  /** Writes a whole source page. */
  async write(name: string, values: Values, options: WriteOptions = {}): Promise<WriteAnswer> {
    const path = `${pagePath(name)}/data`
    checkValues(values)
    if (!ArrayBuffer.isView(values))
      return this.#requests.write('PUT', path, deltaText({ values }), options, {})
    const headers = { 'mmsb-dtype': dtypesOf(values).join(',') }
    return this.#requests.write('PUT', path, octetsOf(values), options, { headers })
  }

  /** Commits deltas to any number of pages in one epoch, all or none. */
  async transact(
    transaction: Transaction,
    options: Omit<WriteOptions, 'expectVersion'> = {},
  ): Promise<TransactionAnswer> {
    checkTransaction(transaction)
    checkFields('options', options, { ...CALL, key: isText })
    const { key = newKey(), ...rest } = options
    checkKey(key)
    const body = transactionText(transaction, key)
    return this.#requests.json('POST', '/v1/transactions', rest, { body, isRepeatable: true })
  }

  /** Computes what pages would hold after these deltas. Nothing is committed. */
  async whatIf(
    input: { readonly ops: Transaction['ops']; readonly read: readonly string[] },
    options: CallOptions = {},
  ): Promise<ReadAnswer> {
    checkFields('input', input, { ops: isAny, read: isAny })
    checkOps(input.ops)
    for (const [i, name] of listOf('read', input.read).entries()) checkName(name, `read[${i}]`)
    const body = `{"ops":${opsText(input.ops)},"read":${jsonOf('read', input.read)}}`
    return readAnswerOf(
      await this.#requests.json('POST', '/v1/whatif', options, { body, isRepeatable: true }),
    )
  }

  // --- time ---

  /** The transactions and changed pages of an epoch. */
  async epoch(epoch: number, options: CallOptions = {}): Promise<EpochEntry> {
    checkFields('arguments', { epoch: epoch ?? null }, { epoch: isInteger })
    return this.#requests.get(`/v1/epochs/${epoch}`, options)
  }

  /**
   * The transactions and changed pages of a range of epochs; `next` is the epoch to continue with, null
   * after the last.
   */
  async epochs(
    query: {
      readonly from?: number
      readonly to?: number
      readonly page?: string
      readonly source?: string
      readonly limit?: number
    } = {},
    options: CallOptions = {},
  ): Promise<{ readonly epochs: readonly EpochEntry[]; readonly next: number | null }> {
    checkFields('query', query, { ...RANGE, page: isText, source: isText, limit: isInteger })
    return this.#requests.get('/v1/epochs', options, { ...query })
  }

  /** The versions of a page. */
  async history(
    name: string,
    query: { readonly from?: number; readonly to?: number; readonly limit?: number } = {},
    options: CallOptions = {},
  ): Promise<HistoryAnswer> {
    checkFields('query', query, { ...RANGE, limit: isInteger })
    return this.#requests.get(`${pagePath(name)}/history`, options, { ...query })
  }

  /** The elements that differ between two epochs; default for `to`: the newest. */
  async diff(
    query: { readonly from: number; readonly to?: number; readonly pages?: readonly string[] },
    options: CallOptions = {},
  ): Promise<DiffAnswer> {
    checkFields('query', query, { ...RANGE, pages: isAny })
    const { from, to, pages } = query
    if (from === undefined) throw invalidRequest('query.from: is missing')
    const names = pages === undefined ? undefined : namesText('query.pages', pages)
    return this.#requests.get('/v1/diff', options, { from, to, pages: names })
  }

  /** Replays the log and compares digests. Slow: set `timeoutMs` accordingly. */
  async verify(
    range: { readonly from?: number; readonly to?: number } = {},
    options: CallOptions = {},
  ): Promise<VerifyAnswer> {
    checkFields('range', range, RANGE)
    return this.#requests.json('POST', '/v1/verify', options, {
      body: JSON.stringify(range),
      isRepeatable: true,
    })
  }

  /** Writes a checkpoint. */
  async checkpoint(options: CallOptions = {}): Promise<Checkpoint> {
    return this.#requests.json('POST', '/v1/checkpoints', options)
  }

  /** The checkpoints that the server keeps. */
  async checkpoints(options: CallOptions = {}): Promise<{ readonly checkpoints: readonly Checkpoint[] }> {
    return this.#requests.get('/v1/checkpoints', options)
  }

  // --- functions, state ---

  /** Defines or redefines a function that expressions can call. */
  async defineFunction(
    name: string,
    definition: FunctionDefinition,
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly worldAge: number }> {
    const body = jsonOf('definition', objectOf('definition', definition))
    return this.#requests.json('PUT', functionPath(name), options, { body })
  }

  /** A function and the pages that use it. */
  async function(name: string, options: CallOptions = {}): Promise<FunctionView> {
    return this.#requests.get(functionPath(name), options)
  }

  /** All functions. */
  async functions(
    options: CallOptions = {},
  ): Promise<{ readonly worldAge: number; readonly functions: readonly FunctionView[] }> {
    return this.#requests.get('/v1/functions', options)
  }

  /** Deletes a function that no page uses. */
  async deleteFunction(
    name: string,
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly worldAge: number }> {
    return this.#requests.json('DELETE', functionPath(name), options)
  }

  /** The dependency graph of the pages. */
  async graph(options: CallOptions = {}): Promise<Graph> {
    return this.#requests.get('/v1/graph', options)
  }

  /** Version, epoch, digest and backend of the server. */
  async status(options: CallOptions = {}): Promise<Status> {
    return this.#requests.get('/v1/status', options)
  }

  /** Counters and timings of the server. */
  async stats(options: CallOptions = {}): Promise<Stats> {
    return this.#requests.get('/v1/stats', options)
  }

  // --- stream ---

  /** The durable subscriptions that the server keeps. */
  async durables(options: CallOptions = {}): Promise<{ readonly subscriptions: readonly DurableView[] }> {
    return this.#requests.get('/v1/subscriptions', options)
  }

  /** Deletes a durable subscription: the server drops its cursor. */
  async deleteDurable(name: string, options: CallOptions = {}): Promise<{ readonly name: string }> {
    return this.#requests.json('DELETE', pathOf('subscriptions', name), options)
  }

  /** Subscribes to changes: each arrives once and in order, across lost connections. */
  subscribe(options: SubscribeOptions): Subscription {
    this.#check()
    const { queueMaxBytes } = this.#options
    const subscription = subscriptionOf(this.#connection, options, {
      queueMaxBytes,
      onEnd: (close) => this.#open.delete(close),
    })
    this.#open.add(subscription.close)
    return subscription
  }

  /** Keeps a live copy of a page. @throws MmsbError PAGE_NOT_FOUND */
  async mirror<T extends TypedArray = TypedArray>(
    name: string,
    options: MirrorOptions = {},
  ): Promise<Mirror<T>> {
    return mirrorOf<T>(await this.mirrorAll([textOf('name', name)], options), name)
  }

  /** Keeps live copies of all pages that match names or patterns, always of one epoch. */
  async mirrorAll(patterns: readonly string[], options: MirrorOptions = {}): Promise<MirrorSet> {
    this.#check()
    const deps: MirrorDeps = {
      connection: this.#connection,
      readWhole: (wanted, signal) => readWhole(this, wanted, signal),
      onEnd: (ended) => this.#open.delete(ended),
    }
    const { ready, close } = mirrorSetOf(deps, patterns, options)
    this.#open.add(close)
    return ready
  }

  /** A writer that sends transactions over the WebSocket, many in flight at a time. */
  writer(): Writer {
    this.#check()
    const end = (): void => writer.fail(closedError())
    const writer = new StreamWriter({
      connection: this.#connection,
      pageOf: (name) => this.#knownPages.get(name),
      forgetPage: (name) => this.#knownPages.forget(name),
      askHistory: () => this.status(),
      newKey,
      onEnd: () => this.#open.delete(end),
    })
    this.#open.add(end)
    return writer
  }

  /** Ends subscriptions, mirrors and writers; pending calls and writes reject with CLOSED. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const end of [...this.#open]) end()
    this.#open.clear()
    this.#rest.close()
    this.#connection.failAll(closedError())
  }

  #check(): void {
    if (this.#isClosed) throw closedError()
  }

  /**
   * For JSON changes, which do not name dtypes. Not cached: in another epoch the name may belong to
   * another page.
   */
  async #formOf(name: string, epoch: number): Promise<PageForm> {
    const { dtype, shape } = await this.read(name, { epoch, count: 0 })
    return { dtype, shape }
  }

  /** One at a time, however often the connection fails meanwhile. */
  #probe(): Promise<MmsbError | undefined> {
    this.#probing ??= this.#findRefusal().finally(() => {
      this.#probing = undefined
    })
    return this.#probing
  }

  async #findRefusal(): Promise<MmsbError | undefined> {
    try {
      await this.#rest.call({
        method: 'GET',
        path: '/v1/status',
        timeoutMs: PROBE_TIMEOUT_MS,
        isRepeatable: true,
        isProbe: true,
        read: readJson,
      })
      return undefined
    } catch (error) {
      if (error instanceof MmsbError && error.status >= 400 && error.status < 500) return error
      throw error
    }
  }
}

function pathOf(room: string, name: string): string {
  checkName(name)
  return `/v1/${room}/${encodeURIComponent(name)}`
}

const pagePath = (name: string): string => pathOf('pages', name)
const functionPath = (name: string): string => pathOf('functions', name)
