/**
 * The client: everything the server offers, as promises, async iterators and live arrays.
 *
 * Invariants: imports nothing of the server and nothing of a platform, so it runs in Node and in browsers; how a WebSocket is opened is
 * handed in; after `close` nothing of it holds the process.
 */
import { closedError, MmsbError } from './errors.js'
import type { FramePage } from './frame.js'
import { Link, type OpenSocket } from './link.js'
import type { PageForm } from './message.js'
import {
  type Mirror,
  type MirrorOptions,
  type MirrorRooms,
  type MirrorSet,
  mirrorOf,
  mirrorSetOf,
} from './mirror.js'
import { type Call, type RestOptions, readJson, restOf } from './rest.js'
import { readWhole } from './staging.js'
import { type Subscription, subscriptionOf } from './subscription.js'
import { deltaText, opsText, transactionText } from './text.js'
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
import {
  bytesOf,
  type Dtype,
  dtypesOf,
  elementsOf,
  fromJson,
  isDtype,
  type TypedArray,
  viewOf,
} from './values.js'
import { StreamWriter, type Writer } from './writer.js'

export interface ClientOptions extends RestOptions {
  /** Subprotocol of the WebSocket; default: binary. */
  readonly protocol?: 'binary' | 'json'
  /** Values that may wait for the reader of a subscription. */
  readonly queueMaxBytes?: number
  /** After this long without a word on a subscription the connection is made anew. */
  readonly silenceMaxMs?: number
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

  constructor(url: string, open: OpenSocket, options: ClientOptions = {}) {
    this.url = url.replace(/\/+$/, '')
    this.#options = options
    this.#rest = restOf(this.url, options)
    this.#link = new Link({
      url: `${this.url.replace(/^http/, 'ws')}/v1/stream`,
      protocol: options.protocol ?? 'binary',
      open,
      probe: () => this.#probe(),
      formOf: (page, epoch) => this.#formOf(page, epoch),
      silenceMaxMs: options.silenceMaxMs,
    })
  }

  // --- pages ---

  /** Creates a source page. @throws MmsbError PAGE_EXISTS where another definition has the name */
  create(name: string, definition: SourceDefinition, options: CallOptions = {}): Promise<Page> {
    const { fill } = definition
    const body = { ...definition, ...(typeof fill === 'bigint' ? { fill: String(fill) } : {}) }
    return this.#json('PUT', pagePath(name), { ...options, body: JSON.stringify(body), isRepeatable: true })
  }

  /** Creates a derived page. */
  derive(name: string, derive: Derivation, options: DerivedOptions & CallOptions = {}): Promise<Page> {
    const { signal: _signal, timeoutMs: _timeoutMs, ...definition } = options
    const body = JSON.stringify({ derive, ...definition })
    return this.#json('PUT', pagePath(name), { ...options, body, isRepeatable: true })
  }

  /** Creates pages in one epoch; all or none. */
  createMany(
    pages: readonly NamedDefinition[],
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly pages: readonly Page[] }> {
    return this.#json('POST', '/v1/pages', { ...options, body: JSON.stringify({ pages }) })
  }

  page(name: string, options: CallOptions = {}): Promise<Page> {
    return this.#get(pagePath(name), options)
  }

  /** One part of the list of pages; `next` is the cursor of the next part, null after the last. */
  pages(
    query: { readonly prefix?: string; readonly limit?: number; readonly cursor?: string } = {},
    options: CallOptions = {},
  ): Promise<{ readonly pages: readonly Page[]; readonly next: string | null }> {
    return this.#get('/v1/pages', options, { ...query })
  }

  /** Deletes a page; with `cascade` also all that derives from it. */
  delete(
    name: string,
    options: CallOptions & { readonly cascade?: boolean } = {},
  ): Promise<{ readonly epoch: number }> {
    return this.#json('DELETE', pagePath(name), { ...options, query: { cascade: options.cascade } })
  }

  // --- data ---

  /** The elements of a page, or `count` of them from `offset` on. */
  read<T extends TypedArray = TypedArray>(
    name: string,
    options: ReadOptions & Part = {},
  ): Promise<PageData<T>> {
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
  readMany(names: readonly string[], options: ReadOptions = {}): Promise<ReadAnswer> {
    const query = { pages: names.join(','), epoch: options.epoch }
    return this.#get<JsonRead>('/v1/read', options, query).then(readAnswerOf)
  }

  /** Changes a part of a source page: dense, sparse or masked; or dense from raw bytes. */
  patch(name: string, delta: Delta | Octets, options: WriteOptions = {}): Promise<WriteAnswer> {
    const path = `${pagePath(name)}/data`
    if ('octets' in delta) {
      const { offset, merge, octets } = delta
      return this.#write('PATCH', path, octets, options, { query: { offset, merge } })
    }
    const { offset, merge, values } = delta
    const isDense = delta.indices === undefined && delta.mask === undefined
    if (isDense && ArrayBuffer.isView(values)) {
      const headers = { 'mmsb-dtype': dtypesOf(values).join(',') }
      return this.#write('PATCH', path, bytesOf(values), options, { query: { offset, merge }, headers })
    }
    return this.#write('PATCH', path, deltaText(delta), options, {})
  }

  /** Writes a whole source page. */
  write(name: string, values: Values, options: WriteOptions = {}): Promise<WriteAnswer> {
    const path = `${pagePath(name)}/data`
    if (!ArrayBuffer.isView(values)) return this.#write('PUT', path, deltaText({ values }), options, {})
    const headers = { 'mmsb-dtype': dtypesOf(values).join(',') }
    return this.#write('PUT', path, bytesOf(values), options, { headers })
  }

  /** Commits deltas to any number of pages: all or nothing, in one epoch. */
  transact(
    transaction: Transaction,
    options: Omit<WriteOptions, 'expectVersion'> = {},
  ): Promise<TransactionAnswer> {
    return this.#write('POST', '/v1/transactions', transactionText(transaction), options, {})
  }

  /** What pages would hold after these deltas. Nothing is committed. */
  whatIf(
    { ops, read }: { readonly ops: Transaction['ops']; readonly read: readonly string[] },
    options: CallOptions = {},
  ): Promise<ReadAnswer> {
    const body = `{"ops":${opsText(ops)},"read":${JSON.stringify(read)}}`
    return this.#json<JsonRead>('POST', '/v1/whatif', { ...options, body, isRepeatable: true }).then(
      readAnswerOf,
    )
  }

  // --- time ---

  /** What an epoch did. */
  epoch(epoch: number, options: CallOptions = {}): Promise<EpochEntry> {
    return this.#get(`/v1/epochs/${epoch}`, options)
  }

  /** What the epochs of a range did; `next` is where to go on, null after the last. */
  epochs(
    query: {
      readonly from?: number
      readonly to?: number
      readonly page?: string
      readonly source?: string
      readonly limit?: number
    } = {},
    options: CallOptions = {},
  ): Promise<{ readonly epochs: readonly EpochEntry[]; readonly next: number | null }> {
    return this.#get('/v1/epochs', options, { ...query })
  }

  /** The versions of a page. */
  history(
    name: string,
    query: { readonly from?: number; readonly to?: number; readonly limit?: number } = {},
    options: CallOptions = {},
  ): Promise<HistoryAnswer> {
    return this.#get(`${pagePath(name)}/history`, options, { ...query })
  }

  /** Which elements differ between two epochs; `to` is the newest unless given. */
  diff(
    query: { readonly from: number; readonly to?: number; readonly pages?: readonly string[] },
    options: CallOptions = {},
  ): Promise<DiffAnswer> {
    return this.#get('/v1/diff', options, { ...query, pages: query.pages?.join(',') })
  }

  /** Replays the log and compares digests. Slow: give it time. */
  verify(
    range: { readonly from?: number; readonly to?: number } = {},
    options: CallOptions = {},
  ): Promise<VerifyAnswer> {
    return this.#json('POST', '/v1/verify', { ...options, body: JSON.stringify(range), isRepeatable: true })
  }

  /** Writes a checkpoint. */
  checkpoint(options: CallOptions = {}): Promise<Checkpoint> {
    return this.#json('POST', '/v1/checkpoints', options)
  }

  checkpoints(options: CallOptions = {}): Promise<{ readonly checkpoints: readonly Checkpoint[] }> {
    return this.#get('/v1/checkpoints', options)
  }

  // --- functions, state ---

  /** Defines a function that expressions can call, or gives it another meaning. */
  defineFunction(
    name: string,
    definition: FunctionDefinition,
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly worldAge: number }> {
    return this.#json('PUT', functionPath(name), { ...options, body: JSON.stringify(definition) })
  }

  function(name: string, options: CallOptions = {}): Promise<FunctionView> {
    return this.#get(functionPath(name), options)
  }

  functions(
    options: CallOptions = {},
  ): Promise<{ readonly worldAge: number; readonly functions: readonly FunctionView[] }> {
    return this.#get('/v1/functions', options)
  }

  deleteFunction(
    name: string,
    options: CallOptions = {},
  ): Promise<{ readonly epoch: number; readonly worldAge: number }> {
    return this.#json('DELETE', functionPath(name), options)
  }

  graph(options: CallOptions = {}): Promise<Graph> {
    return this.#get('/v1/graph', options)
  }

  status(options: CallOptions = {}): Promise<Status> {
    return this.#get('/v1/status', options)
  }

  stats(options: CallOptions = {}): Promise<Readonly<Record<string, unknown>>> {
    return this.#get('/v1/stats', options)
  }

  // --- stream ---

  /** The durable subscriptions that the server keeps. */
  durables(options: CallOptions = {}): Promise<{ readonly subscriptions: readonly DurableView[] }> {
    return this.#get('/v1/subscriptions', options)
  }

  /** Makes the server forget a durable subscription. */
  deleteDurable(name: string, options: CallOptions = {}): Promise<{ readonly name: string }> {
    return this.#json('DELETE', `/v1/subscriptions/${encodeURIComponent(name)}`, options)
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
    return mirrorOf<T>(await this.mirrorAll([name], options), name)
  }

  /** All pages that match names or patterns, live, always of one epoch. */
  mirrorAll(patterns: readonly string[], options: MirrorOptions = {}): Promise<MirrorSet> {
    if (this.#isClosed) return Promise.reject(closedError())
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
    return this.#rest.call<T>({ ...options, method: 'GET', path, query, isRepeatable: true, read: readJson })
  }

  #json<T>(
    method: Call<T>['method'],
    path: string,
    call: CallOptions & Pick<Partial<Call<T>>, 'body' | 'query' | 'isRepeatable'>,
  ): Promise<T> {
    const { signal, timeoutMs, body, query, isRepeatable = false } = call
    return this.#rest.call<T>({
      method,
      path,
      isRepeatable,
      read: readJson,
      ...(signal === undefined ? {} : { signal }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(body === undefined ? {} : { body }),
      ...(query === undefined ? {} : { query }),
    })
  }

  #write<T>(
    method: Call<T>['method'],
    path: string,
    body: string | Uint8Array,
    options: WriteOptions,
    more: Pick<Call<T>, 'query' | 'headers'>,
  ): Promise<T> {
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

const pagePath = (name: string): string => `/v1/pages/${encodeURIComponent(name)}`
const functionPath = (name: string): string => `/v1/functions/${encodeURIComponent(name)}`

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
    throw new MmsbError({ code: 'PROTOCOL', detail: `the answer does not say what page "${name}" is` })
  }
  const shape = (headers.get('mmsb-shape') ?? '').split(',').filter(Boolean).map(Number)
  const values = typedOf(dtype, bytes) as T
  return { name, dtype, shape, epoch: Number(headers.get('mmsb-epoch')), version: Number(version), values }
}

function typedOf(dtype: Dtype, bytes: ArrayBuffer): TypedArray {
  const size = viewOf(dtype, bytes, 0, 0).BYTES_PER_ELEMENT
  return viewOf(dtype, bytes, 0, bytes.byteLength / size)
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
  const entries = Object.entries(pages).map(([name, { dtype, shape, version, values }]) => [
    name,
    { name, dtype, shape, epoch, version, values: fromJson(dtype, values) },
  ])
  return { epoch, pages: Object.fromEntries(entries) }
}
