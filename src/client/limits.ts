/** Every limit and default of the client, named once. Units last. */

/** A call with all its repeats takes at most this long, unless told otherwise. */
export const CALL_TIMEOUT_MS = 30_000
/** Reading one page that is too large for a message. */
export const WHOLE_TIMEOUT_MS = 600_000
/** Pages asked for at a time where all that match are looked for. */
export const LIST_PART = 1_000
/** How often a call is repeated after a failure that a repeat may cure. */
export const CALL_RETRIES = 4
/** The longest that a timer can wait; longer times are cut to it. */
export const TIMER_MAX_MS = 2 ** 31 - 1
/** The server refuses larger bodies. */
export const BODY_MAX_BYTES = 64 * 1024 ** 2
/** Waits between repeats and between connections: they double from the first to the last, and each is shortened at random. */
export const BACKOFF_FIRST_MS = 50
export const BACKOFF_LAST_MS = 5_000
/** A WebSocket that is not open after this long is given up, and tried again. */
export const CONNECT_TIMEOUT_MS = 10_000
/** A WebSocket whose farewell is not answered after this long is dropped. */
export const CLOSE_TIMEOUT_MS = 2_000
/** The server speaks at least every 5 s to a subscription: one silent for longer than this is taken for dead. */
export const SILENCE_MAX_MS = 20_000
/** Values that wait for a reader before the subscription is put aside until the reader has caught up. */
export const READER_QUEUE_MAX_BYTES = 16 * 1024 ** 2
/** What a queued change costs besides its values. */
export const CHANGE_OVERHEAD_BYTES = 128

/** Transactions of a writer that may be unanswered at a time; more wait here. */
export const WRITER_IN_FLIGHT_MAX = 2_048
/** Frames are joined into messages of at most about this size. */
export const WRITER_MESSAGE_BYTES = 1024 ** 2
/** The server closes a WebSocket that sends a larger message. */
export const STREAM_MESSAGE_MAX_BYTES = 16 * 1024 ** 2

/** Frames: see docs/internals/FORMAT.md. */
export const FRAME_MAGIC = 0x3146_534d
export const FRAME_VERSION = 1
export const FRAME_HEADER_BYTES = 32
export const DELTA_HEADER_BYTES = 32
export const FRAME_MAX_BYTES = 64 * 1024 ** 2
export const FRAME_MAX_COMMANDS = 1_000_000
export const FRAME_MAX_PRECONDITIONS = 65_536
export const FRAME_KEY_MAX_BYTES = 256
export const FRAME_SOURCE_MAX_BYTES = 256
export const FRAME_INTENT_MAX_BYTES = 16 * 1024
