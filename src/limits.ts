/**
 * Every limit and format constant that matters, named once. Units last. Changing a FORMAT constant changes files on
 * disk; docs/internals/FORMAT.md describes them. This file knows nothing of the rest of the code.
 */

/** Pages. */
/** A page has fewer than 2^32 elements. */
export const PAGE_MAX_ELEMENTS = 0xffff_ffff
/** Largest page, in bytes. */
export const PAGE_MAX_BYTES = 8 * 1024 ** 3
export const PAGE_ID_MAX = 0xffff_fffe
/** Default quota for the bytes of all pages; MMSB_MEMORY_LIMIT changes it. */
export const MEMORY_QUOTA_DEFAULT_BYTES = 8 * 1024 ** 3

/** Native worker threads. */
export const THREADS_MAX = 1024

export const DEFINITION_MAX_BYTES = 1024 ** 2

/** Expressions. */
export const EXPRESSION_MAX_LENGTH = 64 * 1024
export const EXPRESSION_MAX_DEPTH = 256
export const IR_MAX_INSTRUCTIONS = 4096
/** Tokens of functions that one expression may put in place of their calls. */
export const EXPRESSION_MAX_INLINED_TOKENS = 262_144
export const FUNCTION_MAX_PARAMETERS = 64
export const FUNCTIONS_MAX = 65_536
export const IR_MAX_INPUTS = 64

/** Elements of a rolling window: a halo of as many is kept in memory while a block is computed. */
export const WINDOW_MAX_SIZE = 1024 ** 2

/** Commit queue: beyond these, a submit is refused with OVERLOADED. */
export const QUEUE_MAX_TRANSACTIONS = 65_536
export const QUEUE_MAX_BYTES = 256 * 1024 ** 2
/** At most this many transactions and bytes share one epoch. */
export const BATCH_MAX_TRANSACTIONS = 4096
export const BATCH_MAX_BYTES = 32 * 1024 ** 2
/** Plain frames of one sender that are queued and answered together: no more than these, and none longer than so many bytes. */
export const RUN_MAX_FRAMES = 1024
export const RUN_FRAME_MAX_BYTES = 64 * 1024
/** With so much queued for the log an epoch starts at once, and does not wait for what else comes in this turn. */
export const START_AT_BYTES = 8 * 1024 ** 2
/** An epoch may wait for writers who were just answered: this part of a usual append, and no longer than so many milliseconds. */
export const PACE_WAIT_OF_APPEND = 0.75
export const PACE_WAIT_MAX_MS = 2
/** Where they did not come, so many epochs at most pass before it is tried again. */
export const PACE_PAUSE_MAX_EPOCHS = 256
/** A plan expected to run longer than this leaves the event loop. */
export const PLAN_ASYNC_THRESHOLD_NS = 200_000
/** Idempotency keys remembered, oldest forgotten first. */
export const IDEMPOTENCY_KEYS_MAX = 100_000

/** Changed ranges reported per page and epoch; more are merged by closing the narrowest gaps. */
export const CHANGED_RANGES_MAX = 256

/** Log: see docs/internals/FORMAT.md. */
export const SEGMENT_BYTES = 64 * 1024 ** 2
/** Smaller ones are not worth their header; the least has one, and room for as much again. */
export const SEGMENT_BYTES_MIN = 64 * 1024
export const SEGMENT_BYTES_LEAST = 8 * 1024
export const SEGMENT_HEADER_BYTES = 4096
export const RECORD_HEADER_BYTES = 64
export const RECORD_ALIGN_BYTES = 8
export const SEGMENT_FORMAT_VERSION = 1
/** A length above this in a record header is not believed. */
export const RECORD_MAX_BYTES = 512 * 1024 ** 2
/** Up to this size a record is gathered in one buffer and written by one call; above, its parts are written in place. */
export const RECORD_GATHER_MAX_BYTES = 64 * 1024
export const LOG_READ_BYTES = 1024 ** 2
/** fsync=interval: at most this long between two syncs of a log that changed. */
export const LOG_SYNC_INTERVAL_MS = 1_000
/** Zeros are written ahead of small appends in pieces of this size, begun when less than half a piece is left. */
export const LOG_ZERO_PIECE_BYTES = 1024 ** 2
/** The first piece begins this far ahead, so that appends need not wait for it. */
export const LOG_ZERO_MARGIN_BYTES = 64 * 1024

/** Log index: one row per block of the log; rows are written to the catalogue this many at a time. */
export const INDEX_BLOCK_BYTES = 256 * 1024
export const INDEX_BATCH_ROWS = 64
/** A block that touches more pages than this lists none: it may touch any. */
export const INDEX_BLOCK_PAGES_MAX = 4096

/** Checkpoints. */
export const CHECKPOINT_CHUNK_BYTES = 64 * 1024
/** Chunks lie together in rows of up to this size. */
export const CHECKPOINT_PACK_BYTES = 1024 ** 2
export const CHECKPOINT_PACK_CHUNKS_MAX = 16_384
/** After this much the disk is told to begin, while more is being written. */
export const CHECKPOINT_SYNC_BYTES = 32 * 1024 ** 2
/** Pieces handed to the checkpoint's thread and not yet taken up by it. */
export const CHECKPOINT_PIECES_IN_FLIGHT = 4
export const CHECKPOINT_PIECE_PAGES_MAX = 1024
/** A file of which less than this share is still used is not referred to any longer: what is used is copied. */
export const CHECKPOINT_THIN_SHARE = 0.25
/** Older files that one checkpoint may refer to. */
export const CHECKPOINT_FILES_MAX = 16
/** Checkpoints kept at most; the older they are, the farther apart. */
export const CHECKPOINTS_KEPT = 32
/** Old bytes kept for a checkpoint while commits run; beyond, commits wait until the state has been read. */
export const CHECKPOINT_SAVED_MAX_BYTES = 256 * 1024 ** 2
/** A checkpoint is made by itself after this many epochs, or this many bytes of log, since the last. */
export const CHECKPOINT_EVERY_EPOCHS = 100_000
export const CHECKPOINT_EVERY_BYTES = 256 * 1024 ** 2
/** How often it is looked whether something has become too old to be kept. */
export const RETENTION_INTERVAL_MS = 60_000

/** Replay: how far, and by how much memory of old bytes, a rebuilt state can step back without being rebuilt again. */
export const REPLAY_UNDO_EPOCHS = 4_096
export const REPLAY_UNDO_BYTES = 128 * 1024 ** 2
/** A replay this far ahead looks for a checkpoint on the way before it takes the records. */
export const REPLAY_JUMP_EPOCHS = 10_000
/** Records between two looks at whether somebody still wants the answer. */
export const REPLAY_CANCEL_EPOCHS = 64
/** One request looks at no more epochs, and answers with no more bytes of frames, than this; then it says where to go on. */
export const HISTORY_SCAN_EPOCHS = 100_000
export const HISTORY_ANSWER_BYTES = 16 * 1024 ** 2
export const HISTORY_LIMIT_DEFAULT = 100
export const HISTORY_LIMIT_MAX = 1_000
/** Past changes: one answer has about so many bytes of values and ranges, and has looked at so many epochs. */
export const PAST_ANSWER_BYTES = 1024 ** 2
export const PAST_ANSWER_EPOCHS = 4_096
/** The thread that replays past changes ends, and with it its state, when nobody has asked for so long. */
export const PAST_IDLE_MS = 20_000
/** Requests about the past that wait for their turn; beyond, OVERLOADED. */
export const REPLAY_QUEUE_MAX = 256

/** Digest: bytes of a page hashed together. */
export const DIGEST_CHUNK_BYTES = 4096

/** HTTP and stream. */
export const HTTP_DEFAULT_PORT = 7411
/** Pages that one request may create. */
export const PAGES_AT_ONCE_MAX = 65_536
/** Request line and headers. */
export const HTTP_HEADERS_MAX_BYTES = 16 * 1024
/** How long a client whose request could not be read may go on sending, so that it reads the answer. */
export const HTTP_ERROR_LINGER_MS = 1_000
/** Path parameters above this are not even looked at. */
export const HTTP_PARAM_MAX_LENGTH = 1_024
/** Binary messages up to this size are taken together with those that come with them. */
export const STREAM_SMALL_MESSAGE_MAX_BYTES = 64 * 1024
export const STREAM_QUEUE_MAX_BYTES = 16 * 1024 ** 2
export const STREAM_SUBSCRIPTIONS_MAX = 1_000
export const STREAM_PATTERNS_MAX = 256
/** Pages a subscription may have windows on, and rows that lie apart in their page of one window. */
export const STREAM_VIEWPORTS_MAX = 256
export const STREAM_VIEWPORT_RUNS_MAX = 65_536
/** A change that only windows are open on is kept for those who come back when its values are no more than this. */
export const STREAM_RECENT_CUT_MAX_BYTES = 64 * 1024
export const STREAM_ID_MAX_LENGTH = 200
export const STREAM_RATE_MAX_HZ = 1_000
export const STREAM_CONNECTIONS_MAX = 10_000
/** Bytes of pages a snapshot, and bytes of values a change message, may carry. */
export const STREAM_SNAPSHOT_MAX_BYTES = 64 * 1024 ** 2
export const STREAM_CHANGE_MAX_BYTES = 64 * 1024 ** 2
/** Epochs kept in memory for readers who come back: no more than these, nor than so many bytes of them. */
export const STREAM_RECENT_EPOCHS = 16_384
export const STREAM_RECENT_MAX_BYTES = 32 * 1024 ** 2
/** What nobody subscribes to any more is followed for so long, in case somebody comes back; at most so many kinds of it. */
export const STREAM_LINGER_MS = 30_000
export const STREAM_LINGERING_MAX = 256
/** A reader who catches up gets more while less than this is queued for him, and for so long at a time. */
export const STREAM_CATCH_UP_QUEUE_BYTES = 256 * 1024
export const STREAM_CATCH_UP_SLICE_MS = 2
/** Pieces of the replayed past that are shared by those who ask for the same. */
export const PAST_SHARED_PIECES_MAX = 32
/** Named durable subscriptions. */
export const DURABLE_READERS_MAX = 1_000
/** Default: how long after it was last heard of, and how many bytes of log behind, a durable reader holds the past back. */
export const DURABLE_HOLD_MS = 7 * 24 * 3_600_000
export const DURABLE_HOLD_BYTES = 4 * 1024 ** 3
/** That a durable reader was heard of is noted at most so often. */
export const DURABLE_SEEN_MS = 10_000
/** Transactions of one WebSocket that wait for their epoch before the server stops reading from it. */
export const STREAM_TRANSACTIONS_IN_FLIGHT_MAX = 4_096
/** And bytes of them. */
export const STREAM_BYTES_IN_FLIGHT_MAX = 16 * 1024 ** 2
/** A WebSocket that shows no sign of life between two of these is dropped. */
export const STREAM_PING_INTERVAL_MS = 60_000
/** How long a stopping server waits for a WebSocket: for its transactions, then for its farewell. */
export const STREAM_GOODBYE_MS = 2_000
export const RETRY_AFTER_SECONDS = 1
/** How long a browser may remember what it may send. */
export const CORS_MAX_AGE_SECONDS = 600
/** JSON of more values than this goes out in pieces, so that other requests are answered in between. */
export const JSON_PIECE_ELEMENTS = 65_536
/** How long a stopping server waits for requests that are under way: less than the 10 s after which others would kill it. */
export const STOP_GRACE_MS = 8_000
/** And for a request, or more of one, on a connection that has none under way. */
export const STOP_ARRIVAL_GRACE_MS = 250
