/**
 * The constants of frames: "Frame: one transaction" in docs/internals/FORMAT.md. The server's writer and
 * reader (src/state/frame) and the client's encoder (src/client/codec/frame.ts) are written separately; tests
 * compare their bytes.
 *
 * Invariant: frames are kept in logs, so no constant here ever changes its meaning.
 */

export const FRAME_MAGIC = 0x3146_534d // "MSF1", little-endian
export const FRAME_VERSION = 1
export const FRAME_HEADER_BYTES = 32
export const FRAME_PRECONDITION_BYTES = 16

export const FRAME_MAX_BYTES = 64 * 1024 ** 2
export const FRAME_MAX_COMMANDS = 1_000_000
export const FRAME_MAX_PRECONDITIONS = 65_536
export const FRAME_KEY_MAX_BYTES = 256
export const FRAME_SOURCE_MAX_BYTES = 256
export const FRAME_INTENT_MAX_BYTES = 16 * 1024

/** Types of commands. */
export const COMMAND_CREATE_PAGE = 1
export const COMMAND_DELETE_PAGE = 2
export const COMMAND_DEFINE_FUNCTION = 3
export const COMMAND_DELTA = 4
export const COMMAND_REDEFINE_PAGE = 5

/** In a create-page command that a client sends: the bus chooses the id. */
export const PAGE_ID_UNASSIGNED = 0xffff_ffff

/** A delta command: its header, then indices or a mask, then values. */
export const DELTA_HEADER_BYTES = 32
/** Kinds of deltas. */
export const DELTA_DENSE = 0
export const DELTA_SPARSE = 1
export const DELTA_MASKED = 2
/** The encoding of a sparse delta: indices are u32. */
export const SPARSE_U32 = 4
/** Encodings of a masked delta: one bit per element, or lengths of runs. */
export const MASK_RAW = 0
export const MASK_RUNS = 1
