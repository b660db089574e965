/**
 * Every limit and format constant, named once, with its unit last in the name. Constants of frames, records,
 * segments, checkpoints and digests are part of file formats: docs/internals/FORMAT.md describes them, and
 * changing one breaks existing files. This file imports nothing of the server.
 */

/** A page has fewer than 2^32 elements. */
export const PAGE_MAX_ELEMENTS = 0xffff_ffff
/** Largest page, in bytes. */
export const PAGE_MAX_BYTES = 8 * 1024 ** 3
export const PAGE_ID_MAX = 0xffff_fffe
/**
 * What a page costs beside its elements, measured: its record, names, places in maps and its native side; a
 * derived page also its step and its place in the graph, without its definition.
 */
export const PAGE_OWN_BYTES = 2 * 1024
export const DERIVED_OWN_BYTES = 4 * 1024
/** What a function costs beside its text. */
export const FUNCTION_OWN_BYTES = 512
/** Default limit for the bytes of all pages together (MMSB_MEMORY_LIMIT). */
export const MEMORY_QUOTA_DEFAULT_BYTES = 8 * 1024 ** 3

/** Native worker threads. */
export const THREADS_MAX = 1024

export const DEFINITION_MAX_BYTES = 1024 ** 2

/** Expressions. */
export const EXPRESSION_MAX_LENGTH = 64 * 1024
export const EXPRESSION_MAX_DEPTH = 256
export const IR_MAX_INSTRUCTIONS = 4096
/** Tokens that inlining user functions may add to one expression. */
export const EXPRESSION_MAX_INLINED_TOKENS = 262_144
export const FUNCTION_MAX_PARAMETERS = 64
export const IR_MAX_INPUTS = 64

/** Elements of a rolling window. As many elements before a block are held in memory while it is computed. */
export const WINDOW_MAX_SIZE = 1024 ** 2

/** A write of a whole page is committed in pieces of this size. A frame has at most twice as much. */
export const WRITE_PIECE_BYTES = 32 * 1024 ** 2

/** Commit queue: beyond these limits a submission is refused with OVERLOADED. */
export const QUEUE_MAX_TRANSACTIONS = 65_536
export const QUEUE_MAX_BYTES = 256 * 1024 ** 2
/** Transactions and bytes that share one epoch at most. */
export const BATCH_MAX_TRANSACTIONS = 4096
export const BATCH_MAX_BYTES = 32 * 1024 ** 2
/** Pages that one epoch creates, deletes and redefines at once. A larger transaction is staged in slices. */
export const STAGED_AT_ONCE_MAX = 1024
/** Plain frames of one sender that are queued and answered together: how many, and how long each may be. */
export const RUN_MAX_FRAMES = 1024
export const RUN_FRAME_MAX_BYTES = 64 * 1024
/** With this much queued, an epoch starts at once instead of at the end of the event loop's turn. */
export const START_AT_BYTES = 8 * 1024 ** 2
/**
 * An epoch waits for writers that were just answered: this share of a typical append, up to a maximum in ms.
 */
export const PACE_WAIT_OF_APPEND = 0.75
export const PACE_WAIT_MAX_MS = 2
/** When they sent nothing, waiting is tried again after at most this many epochs. */
export const PACE_PAUSE_MAX_EPOCHS = 256
/** A plan expected to run longer than this runs off the event loop. */
export const PLAN_ASYNC_THRESHOLD_NS = 200_000
/** Definitions are compiled for so long before the event loop runs again. */
export const COMPILE_SLICE_MS = 20
/** Idempotency keys that are remembered; the oldest are forgotten first. */
export const IDEMPOTENCY_KEYS_MAX = 100_000

/** Changed ranges reported per page and epoch; beyond, ranges with the narrowest gaps are merged. */
export const CHANGED_RANGES_MAX = 256

/** Log: see docs/internals/FORMAT.md. */
export const SEGMENT_BYTES = 64 * 1024 ** 2
/** Smallest segment on the command line, and smallest that works at all: a header and as much again. */
export const SEGMENT_BYTES_MIN = 64 * 1024
export const SEGMENT_BYTES_LEAST = 8 * 1024
export const SEGMENT_HEADER_BYTES = 4096
export const RECORD_HEADER_BYTES = 64
export const RECORD_ALIGN_BYTES = 8
export const SEGMENT_FORMAT_VERSION = 2
/** A record header with a larger length is taken for damage. */
export const RECORD_MAX_BYTES = 512 * 1024 ** 2
/**
 * Up to this size a record is copied into one buffer and written by one call; above, its parts are written
 * one by one.
 */
export const RECORD_GATHER_MAX_BYTES = 64 * 1024
export const LOG_READ_BYTES = 1024 ** 2
/** An open folder is compared with the one that was opened: this often, and at appends. */
export const FOLDER_CHECK_INTERVAL_MS = 1_000
export const FOLDER_CHECK_APPEND_MS = 100
/** fsync=interval: time between two syncs while the log changes. */
export const LOG_SYNC_INTERVAL_MS = 1_000
/**
 * Zeros are written ahead of small appends in pieces of this size; the next begins when half a piece is left.
 */
export const LOG_ZERO_PIECE_BYTES = 1024 ** 2
/** The first piece begins this far ahead, so that appends do not wait for it. */
export const LOG_ZERO_MARGIN_BYTES = 64 * 1024

/** Log index: one row per block of the log; rows are written to the catalog in batches. */
export const INDEX_BLOCK_BYTES = 256 * 1024
export const INDEX_BATCH_ROWS = 64
/** A block that touches more pages than this lists none, which means: any page. */
export const INDEX_BLOCK_PAGES_MAX = 4096

/** Checkpoints. */
export const CHECKPOINT_CHUNK_BYTES = 64 * 1024
/** Chunks are stored together in packs (rows) of up to this size. */
export const CHECKPOINT_PACK_BYTES = 1024 ** 2
export const CHECKPOINT_PACK_CHUNKS_MAX = 16_384
/** A sync is started after this many bytes, while writing goes on. */
export const CHECKPOINT_SYNC_BYTES = 32 * 1024 ** 2
/** Pieces sent to the checkpoint thread that it has not processed yet. */
export const CHECKPOINT_PIECES_IN_FLIGHT = 4
export const CHECKPOINT_PIECE_PAGES_MAX = 1024
/**
 * When less than this share of an older file is still in use, the used chunks are copied and the file is
 * dropped.
 */
export const CHECKPOINT_THIN_SHARE = 0.25
/** Older files that one checkpoint may reference. */
export const CHECKPOINT_FILES_MAX = 16
/** Checkpoints kept at most; older ones are kept farther apart. */
export const CHECKPOINTS_KEPT = 32
/**
 * Overwritten bytes kept for a running checkpoint; beyond, commits wait until the checkpoint has read the
 * state.
 */
export const CHECKPOINT_SAVED_MAX_BYTES = 256 * 1024 ** 2
/** An automatic checkpoint is made this many epochs, or bytes of log, after the last one. */
export const CHECKPOINT_EVERY_EPOCHS = 100_000
export const CHECKPOINT_EVERY_BYTES = 256 * 1024 ** 2
/** Interval between checks for expired history. */
export const RETENTION_INTERVAL_MS = 60_000

/** Replay: how many epochs, and bytes of undo data, a rebuilt state can step back without another rebuild. */
export const REPLAY_UNDO_EPOCHS = 4_096
export const REPLAY_UNDO_BYTES = 128 * 1024 ** 2
/** Between requests, replayed states and what undoes them keep at most such a part of the memory limit. */
export const REPLAY_KEPT_SHARE = 4
/** After so long without a request, even the state used last is dropped if it is larger than that. */
export const REPLAY_IDLE_MS = 1_000
/** A replay that must advance farther than this looks for a checkpoint on the way first. */
export const REPLAY_JUMP_EPOCHS = 10_000
/** Niceness of the threads that replay: they get a tenth of a processor that the server needs otherwise. */
export const REPLAY_NICE = 10
/** Records, and milliseconds, between two checks for a cancelled request. */
export const REPLAY_CANCEL_EPOCHS = 64
export const REPLAY_CANCEL_MS = 10
/** A search for the pages of an epoch that is farther away than this begins at a checkpoint. */
export const REPLAY_LIVES_JUMP_EPOCHS = 100_000
/** Rebuilt states that one replay thread keeps at most, and how many of them one caller may have. */
export const REPLAY_STATES_MAX = 8
export const REPLAY_STATES_OF_CALLER = 2
/** A caller may move the state of another one over so many epochs instead of having its own. */
export const REPLAY_NEAR_EPOCHS = 4
/**
 * One history request reads at most this many epochs and returns at most this many bytes of frames, then a
 * cursor.
 */
export const HISTORY_SCAN_EPOCHS = 100_000
export const HISTORY_ANSWER_BYTES = 16 * 1024 ** 2
export const HISTORY_LIMIT_DEFAULT = 100
export const HISTORY_LIMIT_MAX = 1_000
/** Past changes: approximate bytes of values and ranges in one answer, and epochs that it covers. */
export const PAST_ANSWER_BYTES = 1024 ** 2
export const PAST_ANSWER_EPOCHS = 4_096
/** One answer about past changes ends after this long, so that readers get what was replayed so far. */
export const PAST_SLICE_MS = 25
/** Pages made or deleted in so many epochs ahead are known before the replay comes to them. */
export const PAST_LOOK_AHEAD_EPOCHS = 16_384
/** The thread that replays past changes ends, and frees its state, after this long without a request. */
export const PAST_IDLE_MS = 20_000
/** The same for the thread that verifies. */
export const VERIFY_IDLE_MS = 1_000

/** Digest: bytes of a page that are hashed as one chunk. */
export const DIGEST_CHUNK_BYTES = 4096

/** HTTP and stream. */
export const HTTP_DEFAULT_PORT = 7411
/** Pages that one request may create. */
export const PAGES_AT_ONCE_MAX = 65_536
/** How often the timeouts of connections are checked. */
export const TIMEOUT_CHECK_MS = 1_000
/** Request line and headers. */
export const HTTP_HEADERS_MAX_BYTES = 16 * 1024
/** How long a client whose request is malformed may keep sending, so that it can read the answer. */
export const HTTP_ERROR_LINGER_MS = 1_000
/** Longer path parameters are refused by the router. */
export const HTTP_PARAM_MAX_LENGTH = 1_024
/** Binary messages up to this size are processed together with others that arrive at the same time. */
export const STREAM_SMALL_MESSAGE_MAX_BYTES = 64 * 1024
export const STREAM_QUEUE_MAX_BYTES = 16 * 1024 ** 2
/**
 * A queue of up to so many bytes, and a message that fits into it, do not count against the budget of queues;
 * larger pieces are counted one by one.
 */
export const STREAM_FREE_BYTES = 64 * 1024
/** How often readers with more than that queued are looked at. */
export const STREAM_LOOK_INTERVAL_MS = 1_000
/**
 * A reader that takes nothing is cut off after the idle timeout and the time that what is queued for it takes
 * at this rate; while the budget is used up, after less.
 */
export const STREAM_SLOWEST_BYTES_PER_S = 128 * 1024
export const STREAM_PRESSED_PATIENCE_MS = 10_000
export const STREAM_PRESSED_BYTES_PER_S = 1024 ** 2
/** Bytes of snapshots that are kept to be shared by readers that ask before the next change. */
export const STREAM_SNAPSHOTS_KEPT_BYTES = 64 * 1024 ** 2
export const STREAM_PATTERNS_MAX = 256
/** How long a ticket for a WebSocket or an event stream counts. */
export const TICKET_MS = 30_000
/** Tickets that may wait to be used. */
export const TICKETS_MAX = 10_000

/** Principals whose use of their limits is remembered, even where they hold and owe nothing. */
export const PRINCIPAL_USAGES_KEPT = 1_000
/**
 * Patterns of names that one principal may define, over all its tokens; beyond, all pages count as its own.
 */
export const PRINCIPAL_PATTERNS_MAX = 1_024
/** Failed logins of one address: so many at once, and so many a minute. */
export const LOGIN_FAILURES_AT_ONCE = 30
export const LOGIN_FAILURES_PER_MINUTE = 30
/** Addresses whose failures are remembered. */
export const LOGIN_FAILURE_ADDRESSES_MAX = 10_000

/** Tokens of an issuer: by how much clocks may differ. */
export const JWT_SKEW_SECONDS = 30
/**
 * A document of the issuer has at most so many bytes, and so many keys; all of it must arrive in this time.
 */
export const ISSUER_DOCUMENT_MAX_BYTES = 256 * 1024
export const ISSUER_KEYS_MAX = 100
export const ISSUER_TIMEOUT_MS = 5_000
/**
 * Its keys are read again after this time; a key that is not known yet makes it sooner, but not
 * before the pause.
 */
export const ISSUER_REFRESH_MS = 5 * 60_000
export const ISSUER_PAUSE_MS = 10_000
/** Windows of one subscription, and separate runs of elements that one window may consist of. */
export const STREAM_VIEWPORTS_MAX = 256
export const STREAM_VIEWPORT_RUNS_MAX = 65_536
/** So many of these runs count as one pattern against the limits of patterns: they take as much memory. */
export const STREAM_RUNS_OF_PATTERN = 64
/**
 * A change that only window subscriptions need is kept for resuming readers when its values are no larger
 * than this.
 */
export const STREAM_RECENT_CUT_MAX_BYTES = 64 * 1024
export const STREAM_ID_MAX_LENGTH = 200
export const STREAM_RATE_MAX_HZ = 1_000
/** Bytes of pages in one snapshot, and bytes of values in one change message. */
export const STREAM_SNAPSHOT_MAX_BYTES = 64 * 1024 ** 2
export const STREAM_CHANGE_MAX_BYTES = 64 * 1024 ** 2
/** A message with more bytes of values, or more pages, than this is encoded in slices. */
export const STREAM_LARGE_BYTES = 256 * 1024
export const STREAM_LARGE_PAGES = 1_024
/** Bytes of snapshots that one turn of the event loop gathers; further snapshots wait for the next turn. */
export const STREAM_GATHER_TURN_BYTES = 8 * 1024 ** 2
/**
 * Bytes of one snapshot that are gathered without a pause. A page and a name cost time as so many bytes do.
 */
export const STREAM_GATHER_SLICE_BYTES = 4 * 1024 ** 2
export const STREAM_GATHER_PAGE_BYTES = 4 * 1024
export const STREAM_GATHER_NAME_BYTES = 512
/** Epochs, and bytes of them, kept in memory for resuming readers. */
export const STREAM_RECENT_EPOCHS = 16_384
export const STREAM_RECENT_MAX_BYTES = 32 * 1024 ** 2
/** How long a view without subscribers is kept in case one resumes, and how many such views are kept. */
export const STREAM_LINGER_MS = 30_000
export const STREAM_LINGERING_MAX = 256
/** A reader that catches up is sent more while less than this is queued for it, in slices of this many ms. */
export const STREAM_CATCH_UP_QUEUE_BYTES = 256 * 1024
export const STREAM_CATCH_UP_SLICE_MS = 2
/** Replayed pieces of the past that are kept to be shared by readers of the same view. */
export const PAST_SHARED_PIECES_MAX = 32
/** Named durable subscriptions. */
export const DURABLE_READERS_MAX = 1_000
/**
 * Default time since the last sign of a durable reader, and bytes of log behind it, for which history is
 * kept.
 */
export const DURABLE_HOLD_MS = 7 * 24 * 3_600_000
export const DURABLE_HOLD_BYTES = 4 * 1024 ** 3
/** Minimum time between two updates of the stored time at which a durable reader was last seen. */
export const DURABLE_SEEN_MS = 10_000
/** Uncommitted transactions, and bytes of them, of one WebSocket before the server stops reading from it. */
export const STREAM_TRANSACTIONS_IN_FLIGHT_MAX = 4_096
export const STREAM_BYTES_IN_FLIGHT_MAX = 16 * 1024 ** 2
/** A WebSocket without any activity between two pings is dropped. */
export const STREAM_PING_INTERVAL_MS = 60_000
/** How long a stopping server waits for a WebSocket's transactions, and again for its close frame. */
export const STREAM_GOODBYE_MS = 2_000
export const RETRY_AFTER_SECONDS = 1
/** How long a browser may cache the answer to a preflight request. */
export const CORS_MAX_AGE_SECONDS = 600
/** JSON that is larger than this is parsed in pieces, and other work runs after each slice of so many ms. */
export const JSON_PIECE_BYTES = 64 * 1024
export const JSON_SLICE_MS = 5
/** Objects and arrays in one JSON text: room for the definitions of PAGES_AT_ONCE_MAX pages. */
export const JSON_CONTAINERS_MAX = 5 * PAGES_AT_ONCE_MAX
/** Fields of one object in it. */
export const JSON_MEMBERS_MAX = 65_536
/** JSON with more values than this is sent in pieces, so that other requests are served in between. */
export const JSON_PIECE_ELEMENTS = 8_192
/** How long an answer is made before other work gets its turn. */
export const ANSWER_SLICE_MS = 4
/** Larger binary answers are written in parts of this size. */
export const OCTETS_PIECE_BYTES = 256 * 1024
/** Answers that hold no more than this do not count against the budget of answers. */
export const ANSWER_FREE_BYTES = 64 * 1024
/** Request bodies up to this size do not count against the budget of requests. */
export const REQUEST_FREE_BYTES = 16 * 1024
/** Of a request that is refused, so much of its body is still read and dropped, for so long. */
export const REFUSED_BODY_MAX_BYTES = 64 * 1024 ** 2
export const REFUSED_BODY_MAX_MS = 10_000
/** Bytes of pages that are copied between two epochs before other work gets its turn. */
export const READ_SLICE_BYTES = 2 * 1024 ** 2
/** A stopping server has ended after this: less than the 10 s after which supervisors kill a process. */
export const STOP_GRACE_MS = 8_000
/** How long it waits for requests in flight and for the commits behind them. */
export const STOP_REQUESTS_MS = 7_000
/** How long it waits for a request, or the rest of one, on a connection without a request in flight. */
export const STOP_ARRIVAL_GRACE_MS = 250
/** Clients whose connections the kernel has made and the server has not accepted yet, at most. */
export const LISTEN_BACKLOG = 1024
/** Clients that are accepted in one turn of the event loop, at most. */
export const ACCEPTS_PER_TURN = 32

/** Audit trail: names and other texts are cut to this length in a line. */
export const AUDIT_TEXT_MAX_LENGTH = 256
/** Bytes of entries that wait to be written; beyond, entries are lost. */
export const AUDIT_QUEUE_MAX_BYTES = 8 * 1024 ** 2
/** Where nobody waits for a line, lines are synced at most this often. */
export const AUDIT_SYNC_MS = 100
/** How long a writer waits for another process that writes to the same folder. */
export const AUDIT_LOCK_WAIT_MS = 2_000
/**
 * Failed logins: the time over which they are counted, how many of an address, and of all addresses together,
 * get a line of their own in that time, and for how many addresses the others are counted apart.
 */
export const AUDIT_LOGINS_MS = 60_000
export const AUDIT_LOGINS_OF_ADDRESS = 5
export const AUDIT_LOGINS_MAX = 100
export const AUDIT_LOGIN_ADDRESSES_MAX = 100

/** Traces: epochs whose times are kept for the requests that they answer. */
export const TRACED_EPOCHS_MAX = 4_096

/** Admin listener: how often the main thread shows that its event loop runs. */
export const ADMIN_BEAT_MS = 50
/** How long a scrape waits for metrics of now before it gets the last ones. */
export const ADMIN_METRICS_WAIT_MS = 100
/** A server whose event loop has been held for longer than this is not ready. */
export const ADMIN_STALLED_MS = 1_000

/** A clock that is off by more than this from one reading to the next has jumped. */
export const CLOCK_JUMP_MS = 5_000
