/** Limits and defaults of the client alone. Those it shares with the server are in src/wire. Units last. */
import { STREAM_PROGRESS_INTERVAL_MS } from '../wire/limits.js'

/** Default time for a call, all attempts together. */
export const CALL_TIMEOUT_MS = 30_000
/** For reading one page that is too large for a message. */
export const WHOLE_TIMEOUT_MS = 600_000
/** Pages per request while the client looks for all pages that match a pattern. */
export const LIST_PART = 1_000
/** Default time for one attempt to be answered: this share of the time for all of them, but not less. */
export const TRY_TIMEOUT_SHARE = 1 / 3
export const TRY_TIMEOUT_LEAST_MS = 2_000
/** An answer of at most so many bytes is expected as a whole within the time for an attempt. */
export const ANSWER_SMALL_BYTES = 64 * 1024
/** The longest delay that a timer takes; longer ones are cut to it. */
export const TIMER_MAX_MS = 2 ** 31 - 1
/**
 * Delays between attempts, of calls and of connections: they double from the first to the last, with
 * random jitter.
 */
export const BACKOFF_FIRST_MS = 50
export const BACKOFF_LAST_MS = 2_000
/** For the request that finds out why a WebSocket could not be opened. */
export const PROBE_TIMEOUT_MS = 5_000
/** A WebSocket that is not open after this time is dropped and tried again. */
export const CONNECT_TIMEOUT_MS = 10_000
/** A WebSocket whose close is not answered after this time is dropped. */
export const CLOSE_TIMEOUT_MS = 2_000
/** A subscription that is silent for this long counts as dead: four times the server's longest silence. */
export const SILENCE_MAX_MS = 4 * STREAM_PROGRESS_INTERVAL_MS
/** Values queued for a reader. Beyond, the subscription pauses until the reader has caught up. */
export const READER_QUEUE_MAX_BYTES = 16 * 1024 ** 2
/** What a queued change costs besides its values. */
export const CHANGE_OVERHEAD_BYTES = 128

/** Transactions of a writer that may be unanswered at a time; more wait in the client. */
export const WRITER_IN_FLIGHT_MAX = 2_048
/** Frames are joined into messages of about this size at most. */
export const WRITER_MESSAGE_BYTES = 1024 ** 2
