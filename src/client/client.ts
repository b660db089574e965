/**
 * The client: everything the server offers, as promises, async iterators and live arrays.
 *
 * Invariants: imports nothing of the server and nothing of a platform, so it runs in Node and in browsers; how a WebSocket is opened is
 * handed in; after `close` nothing of it holds the process.
 */

import { type Dtype, isDtype, type TypedArray } from '../wire/dtype.js'
import { STREAM_PATH } from '../wire/messages.js'
import {
  CALL,
  type Checks,
  checkDelta,
  checkFields,
  checkHeaderKey,
  checkKey,
  checkName,
  checkOctets,
  checkOps,
  checkTransaction,
  checkValues,
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
  WRITE,
} from './arguments.js'
import type { FramePage } from './codec/frame.js'
import { definitionText, deltaText, opsText, transactionText } from './codec/json.js'
import type { PageForm } from './codec/message.js'
import { dtypesOf, elementsOf, fromJson, octetsOf, sizeOf, viewOf } from './codec/values.js'
import { closedError, invalidRequest, MmsbError, protocolError } from './errors.js'
import { baseOf, type Call, type RestOptions, readJson, restOf } from './http/rest.js'
import { SILENCE_MAX_MS, TIMER_MAX_MS } from './limits.js'
import { Link, type OpenSocket } from './stream/connection.js'
import { readWhole } from './stream/large-snapshot.js'
import {
  type Mirror,
  type MirrorOptions,
  type MirrorRooms,
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
  Status,
  SubscribeOptions,
  Transaction,
  TransactionAnswer,
  Values,
  VerifyAnswer,
  WriteAnswer,
  WriteOptions,
} from './types.js'

export interface ClientOptions extends RestOptions {
  /** Subprotocol of the WebSocket; default: binary. */
  readonly protocol?: 'binary' | 'json'
  /** Values that may wait for the reader of a subscription. */
  readonly queueMaxBytes?: number
  /** After this long without a word on a subscription the connection is made anew. */
  readonly silenceMaxMs?: number
}

const OPTIONS: Checks = {
  headers: isAny,
  fetch: isCallable,
  timeoutMs: isAtLeastZero,
  retries: isAtLeastZero,
  protocol: isOneOf(['binary', 'json']),
  queueMaxBytes: isAtLeastZero,
  silenceMaxMs: (value) => (typeof value === 'number' && value > 0 ? undefined : 'is not a number above 0'),
}

type Part = { readonly offset?: number; readonly count?: number }

const OCTETS = 'application/octet-stream'

export class Client {
  /** Where the server is, without a slash at the end. */
  readonly url: string
  readonly #options: ClientOptions
  readonly #rest: ReturnType<typeof restOf>
  readonly #link: Link
  /** What frames need to know of pages, by name. */
  readonly #known = new Map<string, FramePage>()
  readonly #asked = new Map<string, Promise<FramePage>>()
  /** What is open, and how to end it. */
  readonly #open = new Set<() => void>()
  #isClosed = false

  /** @throws MmsbError INVALID_REQUEST */
  constructor(url: string | URL, open: OpenSocket, options: ClientOptions = {}) {
    checkFields('options', options, OPTIONS, 'options.')
    this.url = baseOf(url)
    this.#options = options
    this.#rest = restOf(this.url, options)
    this.#link = new Link({
      url: `${this.url.replace(/^http/, 'ws')}${STREAM_PATH}`,
      protocol: options.protocol ?? 'binary',
      open,
      probe: () => this.#probe(),
      formOf: (page, epoch) => this.#formOf(page, epoch),
      silenceMaxMs: Math.min(options.silenceMaxMs ?? SILENCE_MAX_MS, TIMER_MAX_MS),
    })
  }

  // --- pages ---

  /** Creates a source page. @throws MmsbError PAGE_EXISTS where another definition has the name */
  async create(name: string, definition: SourceDefinition, options: CallOptions = {}): Promise<Page> {
    const body = definitionText(definition)
    return this.#json('PUT', pagePath(name), options, { body, isRepeatable: true })
  }

  /** Creates a derived page. */
  async derive(name: string, derive: Derivation, options: DerivedOptions & CallOptions = {}): Promise<Page> {
    checkFields('options', options, { ...CALL, dtype: isText, shape: isAny, location: isText })
    const { dtype, shape, location, ...call } = options
    const body = jsonOf('definition', { derive: objectOf('derive', derive), dtype, shape, location })
    return this.#json('PUT', pagePath(name), call, { body, isRepeatable: true })
  }

  /** Creates pages in one epoch; all or none. */
  async createMany(
    pages: readonly NamedDefinition[],
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly pages: readonly Page[] }> {
    const definitions = listOf('pages', pages).map((page, i) => definitionText(page, `pages[${i}]`))
    return this.#json('POST', '/v1/pages', options, { body: `{"pages":[${definitions.join(',')}]}` })
  }

  async page(name: string, options: CallOptions = {}): Promise<Page> {
    return this.#get(pagePath(name), options)
  }

  /** One part of the list of pages; `next` is the cursor of the next part, null after the last. */
  async pages(
    query: { readonly prefix?: string; readonly limit?: number; readonly cursor?: string } = {},
    options: CallOptions = {},
  ): Promise<{ readonly pages: readonly Page[]; readonly next: string | null }> {
    checkFields('query', query, { prefix: isText, limit: isInteger, cursor: isText })
    return this.#get('/v1/pages', options, { ...query })
  }

  /** Deletes a page; with `cascade` also all that derives from it. */
  async delete(
    name: string,
    options: CallOptions & { readonly cascade?: boolean } = {},
  ): Promise<{ readonly epoch: number }> {
    checkFields('options', options, { ...CALL, cascade: isFlag })
    const { cascade, ...rest } = options
    return this.#json('DELETE', pagePath(name), rest, { query: { cascade } })
  }

  // --- data ---

  /** The elements of a page, or `count` of them from `offset` on. */
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

  /** Several pages, all as of one epoch. */
  async readMany(names: readonly string[], options: ReadOptions = {}): Promise<ReadAnswer> {
    checkFields('options', options, READ)
    const { epoch, ...rest } = options
    return readAnswerOf(await this.#get('/v1/read', rest, { pages: namesText('names', names), epoch }))
  }

  /** Changes a part of a source page: dense, sparse or masked; or dense from raw bytes. */
  async patch(name: string, delta: Delta | Octets, options: WriteOptions = {}): Promise<WriteAnswer> {
    const path = `${pagePath(name)}/data`
    if ('octets' in objectOf('delta', delta)) {
      checkOctets(delta)
      const { offset, merge, octets } = delta as Octets
      return this.#write('PATCH', path, octetsOf(octets), options, { query: { offset, merge } })
    }
    checkDelta(delta)
    const { offset, merge, values, indices, mask } = delta as Delta
    if (indices === undefined && mask === undefined && ArrayBuffer.isView(values)) {
      const headers = { 'mmsb-dtype': dtypesOf(values).join(',') }
      return this.#write('PATCH', path, octetsOf(values), options, { query: { offset, merge }, headers })
    }
    return this.#write('PATCH', path, deltaText(delta as Delta), options, {})
  }

  /** Writes a whole source page. */
  async write(name: string, values: Values, options: WriteOptions = {}): Promise<WriteAnswer> {
    const path = `${pagePath(name)}/data`
    checkValues(values)
    if (!ArrayBuffer.isView(values)) return this.#write('PUT', path, deltaText({ values }), options, {})
    const headers = { 'mmsb-dtype': dtypesOf(values).join(',') }
    return this.#write('PUT', path, octetsOf(values), options, { headers })
  }

  /** Commits deltas to any number of pages: all or nothing, in one epoch. */
  async transact(
    transaction: Transaction,
    options: Omit<WriteOptions, 'expectVersion'> = {},
  ): Promise<TransactionAnswer> {
    checkTransaction(transaction)
    checkFields('options', options, { ...CALL, key: isText })
    const { key = newKey(), ...rest } = options
    checkKey(key)
    const body = transactionText(transaction, key)
    return this.#json('POST', '/v1/transactions', rest, { body, isRepeatable: true })
  }

  /** What pages would hold after these deltas. Nothing is committed. */
  async whatIf(
    trial: { readonly ops: Transaction['ops']; readonly read: readonly string[] },
    options: CallOptions = {},
  ): Promise<ReadAnswer> {
    checkFields('trial', trial, { ops: isAny, read: isAny })
    checkOps(trial.ops)
    for (const [i, name] of listOf('read', trial.read).entries()) checkName(name, `read[${i}]`)
    const body = `{"ops":${opsText(trial.ops)},"read":${jsonOf('read', trial.read)}}`
    return readAnswerOf(await this.#json('POST', '/v1/whatif', options, { body, isRepeatable: true }))
  }

  // --- time ---

  /** What an epoch did. */
  async epoch(epoch: number, options: CallOptions = {}): Promise<EpochEntry> {
    checkFields('arguments', { epoch: epoch ?? null }, { epoch: isInteger })
    return this.#get(`/v1/epochs/${epoch}`, options)
  }

  /** What the epochs of a range did; `next` is where to go on, null after the last. */
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
    return this.#get('/v1/epochs', options, { ...query })
  }

  /** The versions of a page. */
  async history(
    name: string,
    query: { readonly from?: number; readonly to?: number; readonly limit?: number } = {},
    options: CallOptions = {},
  ): Promise<HistoryAnswer> {
    checkFields('query', query, { ...RANGE, limit: isInteger })
    return this.#get(`${pagePath(name)}/history`, options, { ...query })
  }

  /** Which elements differ between two epochs; `to` is the newest unless given. */
  async diff(
    query: { readonly from: number; readonly to?: number; readonly pages?: readonly string[] },
    options: CallOptions = {},
  ): Promise<DiffAnswer> {
    checkFields('query', query, { ...RANGE, pages: isAny })
    const { from, to, pages } = query
    if (from === undefined) throw invalidRequest('query.from: is missing')
    const names = pages === undefined ? undefined : namesText('query.pages', pages)
    return this.#get('/v1/diff', options, { from, to, pages: names })
  }

  /** Replays the log and compares digests. Slow: give it time. */
  async verify(
    range: { readonly from?: number; readonly to?: number } = {},
    options: CallOptions = {},
  ): Promise<VerifyAnswer> {
    checkFields('range', range, RANGE)
    return this.#json('POST', '/v1/verify', options, { body: JSON.stringify(range), isRepeatable: true })
  }

  /** Writes a checkpoint. */
  async checkpoint(options: CallOptions = {}): Promise<Checkpoint> {
    return this.#json('POST', '/v1/checkpoints', options)
  }

  async checkpoints(options: CallOptions = {}): Promise<{ readonly checkpoints: readonly Checkpoint[] }> {
    return this.#get('/v1/checkpoints', options)
  }

  // --- functions, state ---

  /** Defines a function that expressions can call, or gives it another meaning. */
  async defineFunction(
    name: string,
    definition: FunctionDefinition,
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly worldAge: number }> {
    const body = jsonOf('definition', objectOf('definition', definition))
    return this.#json('PUT', functionPath(name), options, { body })
  }

  async function(name: string, options: CallOptions = {}): Promise<FunctionView> {
    return this.#get(functionPath(name), options)
  }

  async functions(
    options: CallOptions = {},
  ): Promise<{ readonly worldAge: number; readonly functions: readonly FunctionView[] }> {
    return this.#get('/v1/functions', options)
  }

  async deleteFunction(
    name: string,
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly worldAge: number }> {
    return this.#json('DELETE', functionPath(name), options)
  }

  async graph(options: CallOptions = {}): Promise<Graph> {
    return this.#get('/v1/graph', options)
  }

  async status(options: CallOptions = {}): Promise<Status> {
    return this.#get('/v1/status', options)
  }

  async stats(options: CallOptions = {}): Promise<Readonly<Record<string, unknown>>> {
    return this.#get('/v1/stats', options)
  }

  // --- stream ---

  /** The durable subscriptions that the server keeps. */
  async durables(options: CallOptions = {}): Promise<{ readonly subscriptions: readonly DurableView[] }> {
    return this.#get('/v1/subscriptions', options)
  }

  /** Makes the server forget a durable subscription. */
  async deleteDurable(name: string, options: CallOptions = {}): Promise<{ readonly name: string }> {
    return this.#json('DELETE', pathOf('subscriptions', name), options)
  }

  /** Changes as they are committed, each once, over any number of connections. */
  subscribe(options: SubscribeOptions): Subscription {
    this.#check()
    const { queueMaxBytes } = this.#options
    const subscription = subscriptionOf(this.#link, options, {
      queueMaxBytes,
      onEnd: (close) => this.#open.delete(close),
    })
    this.#open.add(subscription.close)
    return subscription
  }

  /** A page as a live array. @throws MmsbError PAGE_NOT_FOUND */
  async mirror<T extends TypedArray = TypedArray>(
    name: string,
    options: MirrorOptions = {},
  ): Promise<Mirror<T>> {
    return mirrorOf<T>(await this.mirrorAll([textOf('name', name)], options), name)
  }

  /** All pages that match names or patterns, live, always of one epoch. */
  async mirrorAll(patterns: readonly string[], options: MirrorOptions = {}): Promise<MirrorSet> {
    this.#check()
    const rooms: MirrorRooms = {
      link: this.#link,
      readWhole: (wanted, signal) => readWhole(this, wanted, signal),
      onEnd: (ended) => this.#open.delete(ended),
    }
    const { ready, close } = mirrorSetOf(rooms, patterns, options)
    this.#open.add(close)
    return ready
  }

  /** Transactions over the WebSocket, many under way at a time. */
  writer(): Writer {
    this.#check()
    const end = (): void => writer.fail(closedError())
    const writer = new StreamWriter({
      link: this.#link,
      pageOf: (name) => this.#pageOf(name),
      forgetPage: (name) => this.#known.delete(name),
      newKey,
      onEnd: () => this.#open.delete(end),
    })
    this.#open.add(end)
    return writer
  }

  /** Ends subscriptions and mirrors, and calls and writes under way with CLOSED. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const end of [...this.#open]) end()
    this.#open.clear()
    this.#rest.close()
    this.#link.failAll(closedError())
  }

  #check(): void {
    if (this.#isClosed) throw closedError()
  }

  #get<T>(path: string, options: CallOptions, query: Call<T>['query'] = {}): Promise<T> {
    return this.#json('GET', path, options, { query, isRepeatable: true })
  }

  #json<T>(
    method: Call<T>['method'],
    path: string,
    options: CallOptions,
    { isRepeatable = false, ...more }: Pick<Partial<Call<T>>, 'body' | 'query' | 'isRepeatable'> = {},
  ): Promise<T> {
    checkFields('options', options, CALL)
    return this.#rest.call<T>({ ...options, ...more, method, path, isRepeatable, read: readJson })
  }

  #write<T>(
    method: Call<T>['method'],
    path: string,
    body: string | Uint8Array,
    options: WriteOptions,
    more: Pick<Call<T>, 'query' | 'headers'>,
  ): Promise<T> {
    checkFields('options', options, WRITE)
    checkHeaderKey(options.key)
    const { key = newKey(), expectVersion, ...rest } = options
    const headers = {
      'idempotency-key': key,
      ...(expectVersion === undefined ? {} : { 'if-match': `"v${expectVersion}"` }),
      ...more.headers,
    }
    return this.#rest.call<T>({
      ...rest,
      ...more,
      headers,
      method,
      path,
      body,
      isRepeatable: true,
      read: readJson,
    })
  }

  #pageOf(name: string): FramePage | Promise<FramePage> {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    let asked = this.#asked.get(name)
    if (asked === undefined) {
      asked = this.page(name)
        .then(({ id, dtype, shape }) => {
          const page = { id, dtype, elements: elementsOf(shape) }
          this.#known.set(name, page)
          return page
        })
        .finally(() => this.#asked.delete(name))
      this.#asked.set(name, asked)
    }
    return asked
  }

  /** For text messages, which do not name dtypes. Not remembered: the page may be another one in another epoch. */
  async #formOf(name: string, epoch: number): Promise<PageForm> {
    const { dtype, shape } = await this.read(name, { epoch, count: 0 })
    return { dtype, shape }
  }

  async #probe(): Promise<MmsbError | undefined> {
    try {
      await this.status({ timeoutMs: 5_000 })
      return undefined
    } catch (error) {
      const isFinal = error instanceof MmsbError && error.status >= 400 && error.status < 500
      return isFinal ? error : undefined
    }
  }
}

function pathOf(room: string, name: string): string {
  checkName(name)
  return `/v1/${room}/${encodeURIComponent(name)}`
}

const pagePath = (name: string): string => pathOf('pages', name)
const functionPath = (name: string): string => pathOf('functions', name)

/** 128 random bits. Not randomUUID: browsers have that on secure origins alone. */
function newKey(): string {
  let key = ''
  for (const word of crypto.getRandomValues(new Uint32Array(4))) key += word.toString(36).padStart(7, '0')
  return key
}

function pageDataOf<T extends TypedArray>(name: string, headers: Headers, bytes: ArrayBuffer): PageData<T> {
  const dtype = headers.get('mmsb-dtype')
  const version = /^"v(\d+)"$/.exec(headers.get('etag') ?? '')?.[1]
  if (!isDtype(dtype) || version === undefined) {
    throw protocolError(`the answer does not say what page "${name}" is`)
  }
  const shape = (headers.get('mmsb-shape') ?? '').split(',').filter(Boolean).map(Number)
  if (bytes.byteLength % sizeOf(dtype) !== 0) {
    throw protocolError(`${bytes.byteLength} bytes are no elements of page "${name}" of ${dtype}`)
  }
  const values = typedOf(dtype, bytes) as T
  return { name, dtype, shape, epoch: Number(headers.get('mmsb-epoch')), version: Number(version), values }
}

function typedOf(dtype: Dtype, bytes: ArrayBuffer): TypedArray {
  return viewOf(dtype, bytes, 0, bytes.byteLength / sizeOf(dtype))
}

interface JsonRead {
  readonly epoch: number
  readonly pages: Readonly<
    Record<
      string,
      {
        readonly dtype: Dtype
        readonly shape: readonly number[]
        readonly version: number
        readonly values: readonly unknown[]
      }
    >
  >
}

function readAnswerOf({ epoch, pages }: JsonRead): ReadAnswer {
  try {
    const entries = Object.entries(pages).map(([name, { dtype, shape, version, values }]) => [
      name,
      { name, dtype, shape, epoch, version, values: fromJson(dtype, values) },
    ])
    return { epoch, pages: Object.fromEntries(entries) }
  } catch {
    throw protocolError('the answer does not say what the pages hold')
  }
}
