/**
 * One file or folder of the simulated disk: what it shows, what of it is durable, and what it takes up.
 */
const SECTOR_BYTES = 512

type Change = { readonly at: number; readonly bytes: Uint8Array } | { readonly size: number }

export class Inode {
  durable = new Uint8Array(0)
  durableSize = 0
  current = new Uint8Array(0)
  size = 0
  pending: Change[] = []
  /** Cached result of SimDisk.memo for the current bytes. */
  memo: unknown
  /** The bytes that the system shows are durable, apart from pending changes. */
  isTrue = true
  /** The disk has room for it up to here. */
  reserved = 0
  readonly isFolder: boolean

  constructor(isFolder = false) {
    this.isFolder = isFolder
  }

  apply(change: Change): void {
    this.memo = undefined
    this.pending.push(change)
    const grown = applyTo(this.current, this.size, change)
    this.current = grown.bytes
    this.size = grown.size
  }

  sync(): void {
    let state = { bytes: this.durable, size: this.durableSize }
    for (const change of this.pending) state = applyTo(state.bytes, state.size, change)
    this.durable = state.bytes
    this.durableSize = state.size
    this.pending = []
  }

  /** A failed sync: the system still shows the bytes and considers them clean. */
  failSync(): void {
    this.pending = []
    this.isTrue = false
  }
}

function applyTo(
  bytes: Uint8Array<ArrayBuffer>,
  size: number,
  change: Change,
): { bytes: Uint8Array<ArrayBuffer>; size: number } {
  const end = 'size' in change ? change.size : change.at + change.bytes.length
  if (end > bytes.length) {
    const grown = new Uint8Array(Math.max(end, bytes.length * 2))
    grown.set(bytes.subarray(0, size))
    bytes = grown
  }
  if ('size' in change) {
    if (change.size < size) bytes.fill(0, change.size, size)
    return { bytes, size: change.size }
  }
  bytes.set(change.bytes, change.at)
  return { bytes, size: Math.max(size, end) }
}

/** The file after a crash: its synced bytes, and of the changes since those sectors that chance keeps. */
export function afterCrash(inode: Inode, random: () => number): Inode {
  const left = new Inode(inode.isFolder)
  let state = { bytes: inode.durable.slice(), size: inode.durableSize }
  for (const change of inode.pending) {
    for (const part of partsOf(change)) {
      if (random() < 0.5) state = applyTo(state.bytes, state.size, part)
    }
  }
  left.current = state.bytes
  left.durable = state.bytes.slice()
  left.size = left.durableSize = state.size
  left.reserved = state.size
  if (inode.pending.length === 0 && inode.isTrue) left.memo = inode.memo
  return left
}

function partsOf(change: Change): Change[] {
  if ('size' in change) return [change]
  const parts: Change[] = []
  for (let at = 0; at < change.bytes.length; ) {
    const length = Math.min(SECTOR_BYTES - ((change.at + at) % SECTOR_BYTES), change.bytes.length - at)
    parts.push({ at: change.at + at, bytes: change.bytes.subarray(at, at + length) })
    at += length
  }
  return parts
}
