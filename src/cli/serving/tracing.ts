/**
 * Sends traces to a collector by OTLP over HTTP. What does that are packages that only those who want it
 * install; they are loaded with `--otlp-endpoint` alone.
 */
import { DiagLogLevel, diag } from '@opentelemetry/api'
import type { Logger } from 'pino'
import { VERSION } from '../../engine/version.js'
import { RecentEpochs, type Tracing } from '../../http/observe/tracing.js'
import { type FlagTable, type Given, type ParsedFlags, StartError, UsageError } from '../flags.js'

export const TRACING_FLAGS: FlagTable = {
  'otlp-endpoint': {
    value: 'URL',
    help: 'collector that gets traces by OTLP over HTTP, such as http://127.0.0.1:4318',
    env: 'MMSB_OTLP_ENDPOINT',
  },
}

/** A collector that does not answer holds up a stop for no longer. */
const CLOSE_MS = 2_000
const TRACES_PATH = '/v1/traces'

/** Where traces go; undefined: nowhere. @throws UsageError */
export function otlpEndpointOf({ values }: ParsedFlags): string | undefined {
  const given = values.get('otlp-endpoint')
  return given === undefined ? undefined : endpointOf(given)
}

/** @throws UsageError */
function endpointOf({ text, from }: Given): string {
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol))
    throw new UsageError(`${from}: is not an http or https URL`)
  const url = new URL(text)
  if (url.username !== '' || url.password !== '')
    throw new UsageError(`${from}: holds credentials; give them in OTEL_EXPORTER_OTLP_HEADERS`)
  if (url.pathname === '/') url.pathname = TRACES_PATH
  return url.href
}

export interface StartedTracing extends Tracing {
  /** Sends what is left. */
  close(): Promise<void>
}

const PACKAGES = [
  '@opentelemetry/exporter-trace-otlp-http@0.223',
  '@opentelemetry/resources@2',
  '@opentelemetry/sdk-trace-base@2',
]

type Sdk = typeof import('@opentelemetry/sdk-trace-base') &
  typeof import('@opentelemetry/exporter-trace-otlp-http') &
  typeof import('@opentelemetry/resources')

const load = async (): Promise<Sdk> => ({
  ...(await import('@opentelemetry/sdk-trace-base')),
  ...(await import('@opentelemetry/exporter-trace-otlp-http')),
  ...(await import('@opentelemetry/resources')),
})

/** @throws StartError if the packages are not installed */
export async function startTracing(endpoint: string, logger: Logger, loaded = load): Promise<StartedTracing> {
  let sdk: Sdk
  try {
    sdk = await loaded()
  } catch (error) {
    throw new StartError(
      `--otlp-endpoint needs packages that cannot be loaded; run \`npm install ${PACKAGES.join(' ')}\`: ${(error as Error).message}`,
      { cause: error },
    )
  }
  const warn = (message: string): void => logger.warn({ endpoint }, `traces: ${message}`)
  diag.setLogger(
    { error: warn, warn, info: () => {}, debug: () => {}, verbose: () => {} },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  )
  const provider = new sdk.BasicTracerProvider({
    resource: sdk.resourceFromAttributes({ 'service.name': 'mmsb', 'service.version': VERSION }),
    spanProcessors: [new sdk.BatchSpanProcessor(new sdk.OTLPTraceExporter({ url: endpoint }))],
  })
  return {
    tracer: provider.getTracer('mmsb', VERSION),
    epochs: new RecentEpochs(),
    close: async () => {
      const late = new Promise<false>((resolve) => {
        setTimeout(() => resolve(false), CLOSE_MS).unref()
      })
      const sent = provider.shutdown().then(
        () => true,
        () => false,
      )
      if (!(await Promise.race([sent, late]))) warn('the collector has not taken what was left')
    },
  }
}
